package soulbox_test

import (
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestParseTemplateRef(t *testing.T) {
	long := strings.Repeat("a", 128)
	for _, test := range []struct {
		in   string
		want soulbox.TemplateRef
		bad  bool
	}{
		{in: "base", want: soulbox.TemplateRef{Name: "base"}},
		{in: "Base_1-x", want: soulbox.TemplateRef{Name: "base_1-x"}},
		{in: "base:v1.2", want: soulbox.TemplateRef{Name: "base", Tag: "v1.2"}},
		{in: "team/base", want: soulbox.TemplateRef{Namespace: "team", Name: "base"}},
		{in: "Team/Base:Default", want: soulbox.TemplateRef{Namespace: "team", Name: "base", Tag: "default"}},
		{in: long + "/" + long + ":" + long, want: soulbox.TemplateRef{Namespace: long, Name: long, Tag: long}},
		{in: "", bad: true},
		{in: "a b", bad: true},
		{in: "a/b/c", bad: true},
		{in: "a:b:c", bad: true},
		{in: "/a", bad: true},
		{in: "a/", bad: true},
		{in: "a:", bad: true},
		{in: ":a", bad: true},
		{in: "a:b/c", bad: true},
		{in: "../a", bad: true},
		{in: "a.b", bad: true},
		{in: "a\n", bad: true},
		{in: "é", bad: true},
		{in: long + "a", bad: true},
	} {
		got, err := soulbox.ParseTemplateRef(test.in)
		if test.bad {
			if soulbox.KindOf(err) != soulbox.Invalid || err == nil {
				t.Errorf("ParseTemplateRef(%q) = %+v, %v; want Invalid", test.in, got, err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("ParseTemplateRef(%q) = %+v, %v; want %+v", test.in, got, err, test.want)
		}
	}
}

// FuzzParseTemplateRef checks that whatever is accepted reads the same when it
// is written and read again, and that refusals stay short enough to show.
func FuzzParseTemplateRef(f *testing.F) {
	for _, s := range []string{"base", "ns/base:tag", "A/B:C", "a:b/c", "//", "::", "\x00", strings.Repeat("x", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := soulbox.ParseTemplateRef(s)
		if err != nil {
			if soulbox.KindOf(err) != soulbox.Invalid || ref != (soulbox.TemplateRef{}) {
				t.Errorf("ParseTemplateRef(%q) = %+v, %v; want nothing and Invalid", s, ref, err)
			}
			if len(err.Error()) > 4000 {
				t.Errorf("ParseTemplateRef(%q): the error has %d bytes", s, len(err.Error()))
			}
			return
		}
		if ref.String() != strings.ToLower(s) {
			t.Errorf("ParseTemplateRef(%q).String() = %q", s, ref)
		}
		again, err := soulbox.ParseTemplateRef(ref.String())
		if err != nil || again != ref {
			t.Errorf("ParseTemplateRef(%q) = %+v, and %+v, %v when read again", s, ref, again, err)
		}
	})
}

func TestParseTag(t *testing.T) {
	for _, test := range []struct{ in, want, says string }{
		{"v1", "v1", ""},
		{"V1.2-rc_3", "v1.2-rc_3", ""},
		{strings.Repeat("a", 128), strings.Repeat("a", 128), ""},
		{"", "", "1 to 128 of"},
		{strings.Repeat("a", 129), "", "1 to 128 of"},
		{"a b", "", "1 to 128 of"},
		{"a:b", "", "1 to 128 of"},
		{"^1", "", "1 to 128 of"},
		{"F81D4FAE-7dec-11d0-a765-00a0c91e6bf6", "", "could be the id of a build"},
	} {
		got, err := soulbox.ParseTag(test.in)
		if test.says == "" && (err != nil || got != test.want) {
			t.Errorf("ParseTag(%q) = %q, %v; want %q", test.in, got, err, test.want)
		}
		if test.says != "" && (soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(soulbox.MessageOf(err), test.says)) {
			t.Errorf("ParseTag(%q) = %q, %v; want Invalid with %q", test.in, got, err, test.says)
		}
	}
}

func TestNoBuild(t *testing.T) {
	for in, want := range map[string]string{
		"a":          "template 'a' has no build that is ready; build it, or name a tag that one has",
		"n/a":        "template 'n/a' has no build that is ready; build it, or name a tag that one has",
		"a:default":  "template 'a' has no build that is ready; build it, or name a tag that one has",
		"n/a:v2":     "tag 'v2' does not exist for template 'n/a'",
		"a@^1.4":     "template 'a' has no version ^1.4",
		"n/a@1.4.12": "template 'n/a' has no version 1.4.12",
	} {
		ref, err := soulbox.ParseTemplateRef(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := ref.NoBuild(); soulbox.KindOf(err) != soulbox.NotFound || err.Error() != want {
			t.Errorf("NoBuild of %s: %v, want NotFound: %s", in, err, want)
		}
	}
}
