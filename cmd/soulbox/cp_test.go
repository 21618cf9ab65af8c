package main

import (
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestParsePlace(t *testing.T) {
	tests := []struct {
		in   string
		want place
	}{
		{"i123:/etc/hosts", place{"i123", "/etc/hosts"}},
		{"i123:rel/ative", place{"i123", "rel/ative"}},
		{"i123:", place{"i123", ""}},
		{"i123:a:b", place{"i123", "a:b"}},
		{"-", place{"", "-"}},
		{"file", place{"", "file"}},
		{"/a/b:c", place{"", "/a/b:c"}},
		{"./i123:x", place{"", "./i123:x"}},
		{"I123:x", place{"", "I123:x"}},
		{":x", place{"", ":x"}},
		{"", place{"", ""}},
		{strings.Repeat("a", 41) + ":x", place{"", strings.Repeat("a", 41) + ":x"}},
	}
	for _, tt := range tests {
		if got := parsePlace(tt.in); got != tt.want {
			t.Errorf("parsePlace(%q) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"i1:/x", "-", "a", ":", "i1:", "../x:y", "i\x00:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := parsePlace(s)
		back := p.path
		if p.id != "" {
			back = p.id + ":" + p.path
			if !soulbox.SandboxID(p.id).Valid() {
				t.Errorf("parsePlace(%q) takes %q for an id", s, p.id)
			}
		}
		if back != s {
			t.Errorf("parsePlace(%q) = %+v, which is %q", s, p, back)
		}
	})
}
