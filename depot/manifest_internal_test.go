package depot

import (
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// FuzzParse reads whatever there is, twice: what is accepted is bounded, has
// one meaning, and means the same when the type that it has is said.
func FuzzParse(f *testing.F) {
	desc := `{"mediaType":"a","size":3,"digest":"` + someDigest + `"}`
	for _, s := range []string{
		"", "{}", "null", "[]", `{"schemaVersion":2}`,
		`{"schemaVersion":2,"config":` + desc + `}`,
		`{"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `,` + desc + `]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":` + desc + `,"layers":[]}`,
		`{"schemaVersion":2,"manifests":[` + desc + `]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[` + desc + `]}`,
		`{"schemaVersion":2,"manifests":[` + desc + `],"config":` + desc + `}`,
		`{"schemaVersion":2,"config":{"size":-1,"digest":"` + someDigest + `"}}`,
		`{"schemaVersion":2,"config":{"size":1e30,"digest":"sha256:../../etc"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b, "")
		if err != nil {
			if kind := soulbox.KindOf(err); kind != soulbox.Invalid && kind != soulbox.TooLarge {
				t.Fatalf("parse: %v of kind %d", err, kind)
			}
			return
		}
		if m.Digest != soulbox.DigestOf(b) || len(m.parts) > maxParts || !strings.HasPrefix(m.Type, "application/vnd.") || !m.index && len(m.parts) == 0 {
			t.Errorf("parse = %+v", m)
		}
		for _, p := range m.parts {
			if _, err := soulbox.ParseDigest(string(p.digest)); err != nil || p.size < 0 {
				t.Errorf("a part is %+v, %v", p, err)
			}
		}
		again, err := parse(b, m.Type)
		if err != nil || again.Type != m.Type || again.index != m.index || len(again.parts) != len(m.parts) {
			t.Errorf("parse as %s = %+v, %v; want %+v", m.Type, again, err, m)
		}
		if _, err := parse(b, "text/plain"); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("parse as text/plain: %v, want Invalid", err)
		}
	})
}
