package store

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"One two, one; TWO":         "one two",
		"python3.11-dev @scope/pkg": "11 dev pkg python3 scope",
		"数据图表 with a":               "a with 图 据 数 表",
		"Ünïcode ΣΑ":                "ünïcode σα",
		`it's "q" & | ! <-> :*`:     "it q s",
		strings.Repeat("x", 99):     strings.Repeat("x", maxWord),
		"a\x00b\xffc":               "a b c",
	} {
		got := strings.Join(words(9, in), " ")
		if got != want {
			t.Errorf("words(%q) = %q, want %q", in, got, want)
		}
	}
	if got := words(2, "a b", "c"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("words beyond the bound: %q", got)
	}
}

func FuzzWords(f *testing.F) {
	f.Add("One two", "数据")
	f.Add(`'"&|!`, "\x00\xff")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, w := range words(100, a, b) {
			if w == "" || !utf8.ValidString(w) || utf8.RuneCountInString(w) > maxWord {
				t.Errorf("words(%q, %q) has %q", a, b, w)
			}
			for _, c := range w {
				if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
					t.Errorf("words(%q, %q) has %q in %q", a, b, c, w)
				}
			}
		}
	})
}

func FuzzParseOffset(f *testing.F) {
	f.Add(offset(1))
	f.Add(offset(100_000))
	f.Add("KzA")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseOffset(s)
		if err == nil && s != "" && offset(n) != s {
			t.Errorf("parseOffset(%q) = %d, which is %q", s, n, offset(n))
		}
	})
}
