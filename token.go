package soulbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// A TokenSeed is the installation's secret from which the access tokens of
// sandboxes are derived, so that no token needs to be stored: whoever reads
// the database learns none.
type TokenSeed [32]byte

// AgentToken returns the token that the agent of sandbox id asks for.
func (s TokenSeed) AgentToken(id SandboxID) string {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte("soulbox agent token v1\x00" + id))
	return hex.EncodeToString(mac.Sum(nil))
}

// TrafficToken returns the token without which requests do not reach the ports
// of sandbox id, if it is private.
func (s TokenSeed) TrafficToken(id SandboxID) string {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte("soulbox traffic token v1\x00" + id))
	return hex.EncodeToString(mac.Sum(nil))
}

// BuildKey returns the key under which the secrets of builds are kept until
// they are over.
func (s TokenSeed) BuildKey() [32]byte {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte("soulbox build secrets v1\x00"))
	return [32]byte(mac.Sum(nil))
}
