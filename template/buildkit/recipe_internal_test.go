package buildkit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestExpandVars(t *testing.T) {
	env := map[string]string{"A": "1", "LONG_name2": "2", "EMPTY": ""}
	for in, want := range map[string]string{
		"": "", "x": "x", "$A": "1", "${A}": "1", "a$A/b": "a1/b", "$A$A": "11", "$LONG_name2-": "2-", "$NONE": "", "${NONE}x": "x", "$EMPTY": "",
		`\$A`: "$A", "$(A)": "$(A)", "$1": "$1", "$": "$", "a$": "a$", "${": "${", "${A": "${A", "${A-b}": "${A-b}", "$$A": "$1", "ä$A": "ä1",
	} {
		if got := expandVars(in, func(n string) string { return env[n] }); got != want {
			t.Errorf("expandVars(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzExpandVars: without variables nothing changes but backslashes before
// dollars, and values are never expanded again.
func FuzzExpandVars(f *testing.F) {
	f.Add("a$B${C}\\$D$")
	f.Fuzz(func(t *testing.T, s string) {
		got := expandVars(s, func(n string) string { return "${" + n + "}" })
		if again := expandVars(strings.ReplaceAll(got, "\\", ""), func(string) string { return "" }); strings.Contains(again, "${A}") {
			t.Errorf("%q became %q and then %q", s, got, again)
		}
		if !strings.Contains(s, "$") && got != s {
			t.Errorf("expandVars(%q) = %q", s, got)
		}
	})
}

func TestBases(t *testing.T) {
	text := `ARG V=12
ARG W=${V}-slim
FROM debian:$W AS one
COPY --from=team/tool@sha256:abc /x /y
FROM one AS two
COPY --from=0 / /
COPY --from=two / /
RUN --mount=type=bind,from=mounted:1,target=/x --mount=from=one,target=/y true
FROM scratch
FROM debian:12-slim
FROM x$TARGETARCH
`
	got, err := Bases(text, nil)
	if want := []string{"debian:12-slim", "team/tool@sha256:abc", "two", "mounted:1"}; err != nil || !cmp.Equal(got[:len(want)], want) {
		t.Errorf("Bases() = %q, %v", got, err)
	}
	if got, err := Bases(text, map[string]string{"W": "13"}); err != nil || got[0] != "debian:13" {
		t.Errorf("with an argument Bases() = %q, %v", got, err)
	}
	for _, bad := range []string{"", "RUN true", "FROM", "FROM a\nRUM x", "FROM a:${B", "ARG A=" + strings.Repeat("a", 5000) + "\nFROM x"} {
		if got, err := Bases(bad, nil); soulbox.KindOf(err) != soulbox.Invalid && len(got) > 0 {
			t.Errorf("Bases(%.20q) = %q, %v", bad, got, err)
		}
	}
	// What doubles with each line stays bounded.
	bomb := "ARG A0=aaaaaaaaaaaaaaaa\n"
	for i := range 40 {
		bomb += strings.NewReplacer("B", string(rune('A'+i/26))+string(rune('a'+i%26))+"1", "P", map[bool]string{true: "A0", false: string(rune('A'+(i-1)/26)) + string(rune('a'+(i-1)%26)) + "1"}[i == 0]).Replace("ARG B=${P}${P}\n")
	}
	if _, err := Bases(bomb+"FROM x\n", nil); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Bases of a bomb: %v", err)
	}
}

// FuzzBases: whatever a Dockerfile says, reading it ends, and a recipe that is
// read has an origin.
func FuzzBases(f *testing.F) {
	for _, s := range []string{
		"FROM a\n", "ARG X=1\nFROM a:$X AS b\nCOPY --from=b / /\nRUN <<E\nx\nE\n", "# syntax=docker/dockerfile:1\nFROM x\n", "# escape=`\nFROM a`\nb\n",
		"FROM a\nRUN --mount=type=bind,from=b,target=/ x", "FROM ${A:-b}\n", "FROM a\nCOPY <<A <<B /\nA\nB\n", "\xef\xbb\xbf{\"syntax\":\"x\"}\nFROM a",
	} {
		f.Add(s, "X", "1")
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		own, err := ownFrontend(text)
		if err != nil {
			return
		}
		if strings.Count(own, "\n") != strings.Count(text, "\n") {
			t.Errorf("lines of %q are lost: %q", text, own)
		}
		s, err := parseStages(text, map[string]string{name: value})
		if err != nil {
			return
		}
		for _, b := range s.bases() {
			if b == "" {
				t.Errorf("%q has a base without a name", text)
			}
			_, _ = familiar(b), normal(b)
		}
		_, _ = s.origin("")
		_ = s.first(nil)
	})
}

// The frontend must not be one that a Dockerfile names, nor lines move.
func TestOwnFrontend(t *testing.T) {
	for _, text := range []string{
		"# syntax=docker/dockerfile:1\nFROM x\n", "#syntax = docker.io/docker/dockerfile:1.7-labs\n# escape=`\nFROM x\n", "// syntax=docker/dockerfile\nFROM x",
		"#!/usr/bin/env x\n# syntax=docker/dockerfile-upstream:master\nFROM x\n",
	} {
		got, err := ownFrontend(text)
		if err != nil || strings.Count(got, "\n") != strings.Count(text, "\n") {
			t.Errorf("ownFrontend(%q) = %q, %v", text, got, err)
			continue
		}
		if again, err := ownFrontend(got); err != nil || again != got {
			t.Errorf("%q still has a syntax: %q, %v", got, again, err)
		}
	}
	for _, text := range []string{"# syntax=evil/x\n", "# syntax=docker/dockerfile-evil\n", "# syntax=evil.example/docker/dockerfile\n", `{"syntax": "evil/x"}`} {
		if got, err := ownFrontend(text); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("ownFrontend(%q) = %q, %v", text, got, err)
		}
	}
	if got, err := ownFrontend("FROM x\n# syntax=evil/x\n"); err != nil || got != "FROM x\n# syntax=evil/x\n" {
		t.Errorf("a comment later on: %q, %v", got, err)
	}
}
