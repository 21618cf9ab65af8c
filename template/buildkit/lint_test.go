package buildkit_test

import (
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

// Problems have a line, and a remedy that a person can apply.
func TestLint(t *testing.T) {
	b := newBench(t, func(o *buildkit.Options) { o.Size = soulbox.Size{CPUs: 2, Memory: 300 * soulbox.MiB, PIDs: 1000} })
	tests := []struct {
		name, text string
		want       []buildkit.Problem // by line and rule
	}{
		{"clean", "FROM debian:12\nRUN true\n", nil},
		{"syntax_line", "# syntax=docker/dockerfile:1\nFROM debian:12\nRUN true\n", nil},
		{"rules", "from debian:12 AS Build\nMAINTAINER me\nWORKDIR app\nENV A b\nCMD run\n", []buildkit.Problem{
			{Line: 1, Rule: "ConsistentInstructionCasing"},
			{Line: 1, Rule: "StageNameCasing"},
			{Line: 1, Rule: "FromAsCasing"},
			{Line: 2, Rule: "MaintainerDeprecated"},
			{Line: 3, Rule: "WorkdirRelativePath"},
			{Line: 4, Rule: "LegacyKeyValueFormat"},
			{Line: 5, Rule: "JSONArgsRecommended"},
		}},
		{"secret", "FROM debian:12\nENV TOKEN=x\n", []buildkit.Problem{{Line: 2, Rule: "SecretsUsedInArgOrEnv"}}},
		{"unknown", "FROM debian:12\nRUN true\nRUM true\n", []buildkit.Problem{{Line: 3, Fatal: true}}},
		{"no_from", "RUN true\n", []buildkit.Problem{{Line: 1, Fatal: true}}},
		{"empty", "", []buildkit.Problem{{Fatal: true}}},
		{"frontend", "# syntax=evil.example/x\nFROM debian\n", []buildkit.Problem{{Line: 1, Fatal: true}}},
		{"later_stage", "FROM debian:12 AS a\nFROM nobody.example/x:1\nCOPY --from=a / /\nCOPY --from=other.example/y /z /\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := b.engine.Lint(t.Context(), tt.text)
			if err != nil {
				t.Fatal(err)
			}
			missing := tt.want
			for _, p := range got {
				if p.Message == "" || p.Remedy == "" {
					t.Errorf("%+v has no message or no remedy", p)
				}
				found := false
				for i, w := range missing {
					if w.Line == p.Line && w.Rule == p.Rule && w.Fatal == p.Fatal {
						missing = append(append([]buildkit.Problem{}, missing[:i]...), missing[i+1:]...)
						found = true
						break
					}
				}
				if !found {
					t.Errorf("unexpected: %+v", p)
				}
			}
			if len(missing) > 0 {
				t.Errorf("missing: %+v", missing)
			}
		})
	}
	if _, err := b.engine.Lint(t.Context(), strings.Repeat("#\n", 1<<20)); soulbox.KindOf(err) != soulbox.TooLarge {
		t.Errorf("Lint of a large file: %v", err)
	}
	// Variables that double forty times fill BuildKit's memory, not ours, and
	// the next is linted all the same.
	bomb := "FROM debian:12\nENV A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("ENV A=$A$A\n", 40)
	if got, err := b.engine.Lint(t.Context(), bomb); soulbox.KindOf(err) != soulbox.Exhausted {
		t.Errorf("Lint of a bomb: %v, %v", got, err)
	}
	if got, err := b.engine.Lint(t.Context(), "FROM debian:12\n"); err != nil || len(got) > 0 {
		t.Errorf("Lint after a bomb: %v, %v", got, err)
	}
}
