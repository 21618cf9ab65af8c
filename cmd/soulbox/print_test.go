package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func TestRelative(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                      "now",
		999 * time.Millisecond: "now",
		time.Second:            "1s ago",
		59 * time.Second:       "59s ago",
		3 * time.Minute:        "3m ago",
		47 * time.Hour:         "47h ago",
		72 * time.Hour:         "3d ago",
		-90 * time.Second:      "in 1m",
	} {
		if got := relative(d); got != want {
			t.Errorf("relative(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestRounded(t *testing.T) {
	for b, want := range map[soulbox.Bytes]string{
		0: "0 B", 1023: "1023 B", soulbox.KiB: "1 KiB", 512 * soulbox.MiB: "512 MiB",
		soulbox.GiB + soulbox.GiB/2: "1.5 GiB", 3000 * soulbox.GiB: "3000 GiB",
	} {
		if got := rounded(b); got != want {
			t.Errorf("rounded(%d) = %q, want %q", b, got, want)
		}
	}
}

// Nothing that comes out of a sandbox speaks to the terminal.
func TestClean(t *testing.T) {
	if got, want := clean("a\x1b[31mred\r\nü\x9b2J\xff"), "a�[31mred  ü��2J�"; strings.ContainsAny(got, "\x1b\n\r\u009b") || !strings.HasPrefix(got, "a�[31mred  ü") {
		t.Errorf("clean = %q, want like %q", got, want)
	}
	var b bytes.Buffer
	c := &cli{out: &b, outTTY: true, colour: true}
	if err := c.table([]string{"NAME", "X"}, [][]string{{"evil\x1b]0;title\a\nrow", "y"}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b]") || strings.Count(b.String(), "\n") != 2 {
		t.Errorf("table: %q", b.String())
	}
}

func TestExitOf(t *testing.T) {
	for _, tt := range []struct {
		exit client.ExitError
		want int
	}{
		{client.ExitError{Code: 1}, 1},
		{client.ExitError{Code: 255}, 255},
		{client.ExitError{Code: -1, Status: "signal: killed"}, 137},
		{client.ExitError{Code: -1, Status: "signal: terminated"}, 143},
		{client.ExitError{Code: -1, Status: "signal: segmentation fault (core dumped)"}, 139},
	} {
		c := &cli{err: &bytes.Buffer{}, started: true}
		if got := c.report(exitOf(&tt.exit)); got != tt.want {
			t.Errorf("exit code after %+v: %d, want %d", tt.exit, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{soulbox.Errorf(soulbox.Invalid, "no such thing"), 2, "soulbox: no such thing\n"},
		{soulbox.Errorf(soulbox.NotFound, "gone"), 1, "soulbox: gone\n"},
		{soulbox.Errorf(soulbox.Exhausted, "full"), 1, "soulbox: full\n  `soulbox sandbox ls` shows what is in use\n"},
		{hint(soulbox.Errorf(soulbox.Exhausted, "full"), "wait"), 1, "soulbox: full\n  wait\n"},
		{errors.New("two\nlines"), 1, "soulbox: two lines\n"},
		{codeError(77), 77, ""},
		{fmt.Errorf("stop: %w", interrupted{15}), 143, ""},
	} {
		var b bytes.Buffer
		c := &cli{err: &b, started: true}
		if got := c.report(tt.err); got != tt.code || b.String() != tt.text {
			t.Errorf("report(%v) = %d with %q, want %d with %q", tt.err, got, b.String(), tt.code, tt.text)
		}
	}
}

func TestDefaultData(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		uid  int
		want string
	}{
		{nil, 0, "/var/lib/soulbox"},
		{map[string]string{"HOME": "/home/a"}, 1000, "/home/a/.local/share/soulbox"},
		{map[string]string{"HOME": "/home/a", "XDG_DATA_HOME": "/x"}, 1000, "/x/soulbox"},
		{map[string]string{"HOME": "/home/a", "XDG_DATA_HOME": "rel"}, 1000, "/home/a/.local/share/soulbox"},
		{map[string]string{"SOULBOX_DATA": "/d", "XDG_DATA_HOME": "/x"}, 0, "/d"},
	} {
		if got := defaultData(func(k string) string { return tt.env[k] }, tt.uid); got != tt.want {
			t.Errorf("defaultData of user %d with %v = %s, want %s", tt.uid, tt.env, got, tt.want)
		}
	}
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	want := credentials{APIURL: "http://127.0.0.1:7070", APIKey: "e2b_ab"}
	for range 2 { // the second replaces the first, and what a crash left
		if err := os.WriteFile(filepath.Join(dir, credentialsFile+".next"), []byte("{"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := writeCredentials(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readCredentials(dir)
	if err != nil || got != want {
		t.Errorf("readCredentials = %+v, %v, want %+v", got, err, want)
	}
	info, err := os.Stat(filepath.Join(dir, credentialsFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v, want mode 0600", info.Mode(), err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("the folder: %v, %v, want one file", list, err)
	}
	if err := writeCredentials(filepath.Join(dir, "nosuch"), want); err == nil {
		t.Error("writeCredentials into no folder: no error")
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:7070": "http://127.0.0.1:7070", "e2b_ab": "e2b_ab",
		"": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
