package facts

import (
	"strings"
	"testing"
)

func FuzzParseHeader(f *testing.F) {
	header := func(entries, data string) string {
		n := len(entries) / 16
		return string([]byte{0, 0, 0, byte(n), 0, 0, 0, byte(len(data))}) + entries + data
	}
	name := "\x00\x00\x03\xe8\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x01"
	epoch := "\x00\x00\x03\xeb\x00\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00\x01"
	f.Add([]byte(header(name+epoch, "a\x00\x00\x00\x00\x07")))
	f.Add([]byte(header(name, "")))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, version, ok := parseHeader(b)
		if ok != (name != "") {
			t.Errorf("parseHeader: %q, %v", name, ok)
		}
		if len(name) > maxText+1 || len(version) > 3*maxText {
			t.Errorf("a name of %d bytes, a version of %d", len(name), len(version))
		}
	})
}

func FuzzStanzas(f *testing.F) {
	f.Add("Package: a\nVersion: 1\n\nPackage: b\n b\n")
	f.Add(strings.Repeat("x", maxLine+10) + "\nP:a\n")
	f.Fuzz(func(t *testing.T, text string) {
		stanzas(strings.NewReader(text), func(p map[string]string) {
			if len(p) == 0 || len(p) > 100 {
				t.Errorf("a paragraph of %d fields", len(p))
			}
			for name, value := range p {
				if name == "" || strings.ContainsAny(name+value, "\n") || !strings.Contains(text, name) {
					t.Errorf("field %q: %q", name, value)
				}
			}
		})
	})
}
