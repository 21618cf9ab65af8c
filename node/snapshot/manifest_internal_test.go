package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"testing"
)

func sealed(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return []byte(text + "\n" + hex.EncodeToString(sum[:]) + "\n")
}

func TestParseManifestRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"another version": `{"version":2}`,
		"no JSON":         `version 1`,
		"a path":          `{"version":1,"files":[{"name":"../../etc/passwd"}]}`,
		"a folder":        `{"version":1,"files":[{"name":"a/b"}]}`,
		"absolute":        `{"version":1,"files":[{"name":"/etc/passwd"}]}`,
		"no name":         `{"version":1,"files":[{"name":""}]}`,
	} {
		if m, err := parseManifest(sealed(text)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if _, err := parseManifest(sealed(`{"version":1,"files":[{"name":"pages"}]}`)); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(""))
	f.Add(sealed(`{"version":1,"files":[{"name":"pages","size":1}]}`))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, text := range [][]byte{b, sealed(string(b))} {
			m, err := parseManifest(text)
			if err != nil {
				continue
			}
			for _, file := range m.Files {
				if joined := filepath.Join("/x", file.Name); filepath.Dir(joined) != "/x" {
					t.Errorf("%q leads out of the folder", file.Name)
				}
			}
		}
	})
}
