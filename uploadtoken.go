package soulbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// UploadToken returns the token that lets whoever has it upload the files with
// that hash for a template of team, until then and without a key.
func (s TokenSeed) UploadToken(team TeamID, tpl TemplateID, hash string, until time.Time) string {
	mac := hmac.New(sha256.New, s[:])
	fmt.Fprintf(mac, "soulbox upload token v1\x00%q %q %q %d", team, tpl, hash, until.Unix())
	return hex.EncodeToString(mac.Sum(nil))
}
