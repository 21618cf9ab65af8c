package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
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
		"the folder":      `{"version":1,"files":[{"name":"."}]}`,
		"the one above":   `{"version":1,"files":[{"name":".."}]}`,
		"one of two":      `{"version":1,"files":[{"name":"pages"},{"name":"/etc/passwd"}]}`,
		"no version":      `{}`,
		"no name":         `{"version":1,"files":[{"name":""}]}`,
	} {
		if m, err := parseManifest(sealed(text)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	good := sealed(`{"version":1,"files":[{"name":"pages"}]}`)
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"no hash":       good[:len(good)-65],
		"half a hash":   good[:len(good)-30],
		"no end":        good[:len(good)-1],
		"one line more": append(slices.Clip(good), '\n'),
		"another hash":  append([]byte("x"), good...),
	} {
		if m, err := parseManifest(b); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if _, err := parseManifest(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(""))
	f.Add(sealed(`{"version":1,"files":[{"name":"pages","size":1}]}`))
	f.Add(sealed(`{"version":1,"files":[{"name":"."}]}`))
	f.Add([]byte(`{"version":1,"files":[{"name":".."},{"name":"a/"}]}`))
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
