package soulbox_test

import (
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

// A token is good for what it was made for, and a letter of one field cannot
// move into the next.
func TestUploadToken(t *testing.T) {
	seed, other := soulbox.TokenSeed{}, soulbox.TokenSeed{1}
	until := time.Unix(1772600000, 0)
	first := seed.UploadToken("team", "tpl", "hash", until)
	if again := seed.UploadToken("team", "tpl", "hash", until.Add(time.Millisecond).UTC()); again != first {
		t.Errorf("the same second gives %s and %s", first, again)
	}
	for what, token := range map[string]string{
		"another seed":     other.UploadToken("team", "tpl", "hash", until),
		"another team":     seed.UploadToken("team2", "tpl", "hash", until),
		"another template": seed.UploadToken("team", "tpl2", "hash", until),
		"another hash":     seed.UploadToken("team", "tpl", "hash2", until),
		"another time":     seed.UploadToken("team", "tpl", "hash", until.Add(time.Second)),
		"a moved letter":   seed.UploadToken("teamt", "pl", "hash", until),
		"a moved field":    seed.UploadToken(`team" "tpl`, "hash", "", until),
		"a sandbox":        seed.AgentToken("team"),
	} {
		if token == first {
			t.Errorf("%s has the same token", what)
		}
	}
}
