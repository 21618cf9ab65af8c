package bench_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

func standIn(t *testing.T) (*clienttest.Server, *client.Client) {
	t.Helper()
	server := clienttest.New(t.TempDir())
	t.Cleanup(server.Close)
	api, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	return server, api
}

// wantNothing checks that no sandbox and no snapshot is left.
func wantNothing(t *testing.T, server *clienttest.Server, api *client.Client) {
	t.Helper()
	if live := server.Live(); len(live) > 0 {
		t.Errorf("%v are left", live)
	}
	for s, err := range api.Sandboxes.Snapshots(context.WithoutCancel(t.Context()), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("a snapshot is left: %+v", s)
	}
}

// The stand-in is no server to be measured, but shows what is asked of one.
func TestRun(t *testing.T) {
	server, api := standIn(t)
	bystander, err := api.Sandboxes.Create(t.Context(), client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"fork", "create-cold", "burst-20", "command", "pause", "checkpoint", "create-destroy"}
	var said []string
	report, err := bench.Run(t.Context(), api, bench.Options{
		Rows: names, Samples: 2, Server: server.URL, Version: "v1",
		Progress: func(text string) { said = append(said, text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Versions.Client != "v1" || report.Versions.Server != clienttest.Version || report.Machine.Cores < 1 || report.Server != server.URL {
		t.Errorf("the head is %+v", report.Head())
	}
	want := map[string]int{"create-cold": 2, "burst-20": 20, "command": 10, "pause": 2, "checkpoint": 2, "fork": 1, "create-destroy": 2}
	var got []string
	for _, row := range report.Rows {
		got = append(got, row.Name)
		if row.N != want[row.Name] || row.P50 <= 0 || row.Max < row.P50 || row.Error != "" {
			t.Errorf("%+v, want %d samples", row, want[row.Name])
		}
	}
	if want := []string{"create-cold", "burst-20", "command", "pause", "checkpoint", "fork", "create-destroy"}; !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
	if text := strings.Join(said, "\n"); !strings.Contains(text, "pause with memory: 2 of 2") {
		t.Errorf("progress was:\n%s", text)
	}
	if live := server.Live(); !slices.Equal(live, []string{bystander.ID}) {
		t.Errorf("%v live, want only %s, which is not the benchmark's", live, bystander.ID)
	}
	if err := bystander.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, server, api)
}

// A row that cannot be measured does not spoil the others.
func TestRunFailing(t *testing.T) {
	server, api := standIn(t)
	report, err := bench.Run(t.Context(), api, bench.Options{Rows: []string{"pause", "checkpoint"}, Samples: 1, Template: "nosuch"})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if row.N != 0 || !strings.Contains(row.Error, "nosuch") || !strings.Contains(row.Remark(), "could not be measured") {
			t.Errorf("%+v, want an error about the template", row)
		}
	}
	wantNothing(t, server, api)
}

// The rows of containers are measured with containers, and no others are.
func TestRunContainers(t *testing.T) {
	server, api := standIn(t)
	seen := map[string]soulbox.Isolation{} // of the sandboxes that were there, by what was measured
	look := func(text string) {
		what, _, more := strings.Cut(text, ": 1 of ")
		if !more {
			return
		}
		for info, err := range api.Sandboxes.List(t.Context(), client.ListOptions{}) {
			if err != nil {
				t.Error(err)
				return
			}
			seen[what] = info.Isolation
		}
	}
	report, err := bench.Run(t.Context(), api, bench.Options{
		Rows:    []string{"command", "pause", "create-runc", "first-command-runc", "command-runc", "pause-runc", "resume-runc"},
		Samples: 2, Progress: look,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"command": 10, "pause": 2, "create-runc": 2, "first-command-runc": 2, "command-runc": 10, "pause-runc": 2, "resume-runc": 2}
	got := map[string]int{}
	for _, row := range report.Rows {
		got[row.Name] = row.N
		if row.P50 <= 0 || row.Error != "" {
			t.Errorf("%+v, want figures", row)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("samples %v, want %v", got, want)
	}
	classes := map[string]soulbox.Isolation{
		"measuring a command that does nothing":                 soulbox.GVisor,
		"measuring pause with memory":                           soulbox.GVisor,
		"measuring a command that does nothing, in a container": soulbox.Runc,
		"measuring pause of a container, files only":            soulbox.Runc,
	}
	if !maps.Equal(seen, classes) {
		t.Errorf("isolations %v, want %v", seen, classes)
	}
	wantNothing(t, server, api)
}

func TestRunInterrupted(t *testing.T) {
	errStop := errors.New("enough")
	for _, at := range []string{"create from a snapshot: 1 of", "20 creates", "a command that does nothing: 3 of", "pause with memory: 1 of", "fork into 10, per fork: 1 of"} {
		t.Run(at, func(t *testing.T) {
			server, api := standIn(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			_, err := bench.Run(ctx, api, bench.Options{
				Rows: []string{"create-cold", "burst-20", "command", "pause", "fork"}, Samples: 4,
				Progress: func(text string) {
					if strings.Contains(text, at) {
						cancel(errStop)
					}
				},
			})
			if !errors.Is(err, errStop) {
				t.Errorf("Run ended with %v, want the cause of its context", err)
			}
			wantNothing(t, server, api)
		})
	}
}

func TestOptions(t *testing.T) {
	_, api := standIn(t)
	for _, tt := range []struct {
		opts bench.Options
		want string
	}{
		{bench.Options{Rows: []string{"pause", "pauze"}}, `there is no row "pauze"; the rows are create-warm, create-cold, `},
		{bench.Options{Samples: -1}, "the number of samples is between 1 and 10000, not -1"},
		{bench.Options{Samples: 10_001}, "between 1 and 10000"},
		{bench.Options{FileSize: 1}, "the file has between 1 MiB and 1 GiB"},
	} {
		_, err := bench.Run(t.Context(), api, tt.opts)
		if soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want invalid: %s", tt.opts, err, tt.want)
		}
	}
	gone, err := client.New(client.Options{APIURL: "http://127.0.0.1:1", APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bench.Run(t.Context(), gone, bench.Options{}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("a server that is not there: %v", err)
	}
}
