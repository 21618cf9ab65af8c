package buildkit

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/soulbox/soulbox"
)

func TestParseName(t *testing.T) {
	first := map[string]int{"bare": 1}
	for name, want := range map[string][3]string{
		"[base] FROM debian:12":              {"[base]", "FROM debian:12", "base"},
		"[builder 2/3] RUN a\nb":             {"[builder 2/3]", "RUN a\nb", "2"},
		"[1/3] FROM x@sha256:1":              {"[1/3]", "FROM x@sha256:1", "base"},
		"[3/3] RUN [x]":                      {"[3/3]", "RUN [x]", "2"},
		"[stage-1 2/2] COPY a b":             {"[stage-1 2/2]", "COPY a b", "1"},
		"[bare 1/2] RUN x":                   {"[bare 1/2]", "RUN x", "1"},
		"[internal] load build context":      {"", "[internal] load build context", ""},
		"[context x] OCI load":               {"", "[context x] OCI load", ""},
		"load an upload":                     {"", "load an upload", ""},
		"[builder 99999999999999999999/1] x": {"[builder 99999999999999999999/1]", "x", "99999999999999999999"},
		"":                                   {"", "", ""},
	} {
		v := parseName(name, first)
		if got := [3]string{v.label, v.text, v.step}; got != want {
			t.Errorf("parseName(%q) = %q, want %q", name, got, want)
		}
	}
}

// feed gives statuses to a log and returns its lines, without their times.
func feed(statuses ...*client.SolveStatus) []soulbox.BuildLine {
	var lines []soulbox.BuildLine
	l := newLog(func(line soulbox.BuildLine) {
		line.At = time.Time{}
		lines = append(lines, line)
	})
	for _, s := range statuses {
		l.status(s)
	}
	l.close()
	return lines
}

// Output comes in pieces that end anywhere, of several streams at once.
func TestOutput(t *testing.T) {
	d := digest.FromString("x")
	now := time.Now()
	piece := func(stream int, data string) *client.VertexLog {
		return &client.VertexLog{Vertex: d, Stream: stream, Data: []byte(data), Timestamp: now}
	}
	got := feed(
		&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Name: "[builder 1/1] RUN x", Started: &now}}},
		&client.SolveStatus{Logs: []*client.VertexLog{piece(1, "a"), piece(2, "err\r\n"), piece(1, "b\n\nc\x1b[0m"), piece(1, "\xff\n10%\r50%\r100%\n"), piece(1, "end")}},
		&client.SolveStatus{Logs: []*client.VertexLog{piece(1, strings.Repeat("y", maxLine+10)), {Vertex: digest.FromString("unknown"), Data: []byte("x\n")}}},
		&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Name: "[builder 1/1] RUN x", Started: &now, Completed: &now}}},
	)
	var texts []string
	for _, l := range got {
		if l.Step != "1" || l.Level != levelInfo {
			t.Errorf("%+v is not of step 1", l)
		}
		texts = append(texts, l.Message)
	}
	want := []string{
		"[builder 1/1] RUN x [" + d.Encoded()[:12] + "]", "[builder 1/1] [stderr]: err", "[builder 1/1] [stdout]: ab", "[builder 1/1] [stdout]: c[0m\uFFFD", "[builder 1/1] [stdout]: 100%",
		("[builder 1/1] [stdout]: end" + strings.Repeat("y", maxLine+10))[:maxLine] + "…",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Errorf("lines (-want +got)\n%s", diff)
	}
}

// FuzzOutput: no output makes lines that are none, or too long.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("a\nb\r\nc"), []byte("\xff\x00\x1b[2J"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d, now := digest.FromString("x"), time.Now()
		for _, l := range feed(
			&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Name: "[builder 1/1] RUN x", Started: &now}}},
			&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: d, Stream: 1, Data: a}, {Vertex: d, Stream: 7, Data: b}, {Vertex: d, Stream: -1, Data: b}}},
			&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: d, Started: &now, Completed: &now}}},
		) {
			if strings.ContainsAny(l.Message, "\n\r\x00\x1b") || len(l.Message) > maxLine+len("…") || !strings.HasPrefix(l.Message, "[builder 1/1] ") {
				t.Errorf("%q and %q became the line %q", a, b, l.Message)
			}
		}
	})
}

func TestTidy(t *testing.T) {
	for in, want := range map[string]string{
		"failed to solve: failed to compute cache key: failed to calculate checksum of ref x::y: \"/a\": not found": `"/a": not found`,
		"rpc error: code = Unknown desc = exit code: 3":                                                             "exit code: 3",
		"process \"x\" did not complete":                                                                            "process \"x\" did not complete",
		"":                                                                                                          "",
	} {
		if got := tidy(in); got != want {
			t.Errorf("tidy(%q) = %q, want %q", in, got, want)
		}
	}
	if got := unknownUser("unable to find user root123: no matching entries in passwd file"); got != "root123" {
		t.Errorf("unknownUser is %q", got)
	}
	if got := cut("aä", 2); got != "a…" {
		t.Errorf("cut in the middle of a letter gives %q", got)
	}
}
