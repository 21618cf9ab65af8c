package bench_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

// wantTemplates checks that no template is left but the one that was there.
func wantTemplates(t *testing.T, api *client.Client) {
	t.Helper()
	all, err := api.Templates.List(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range all {
		if tpl.Name != "base" {
			t.Errorf("template %s is left", tpl.Name)
		}
	}
}

var buildRows = []string{"build-cold", "build-cached", "build-step", "build-step-plain", "build-snapshot"}

func TestRunBuilds(t *testing.T) {
	server, api := standIn(t)
	seen := 0 // how often something was built
	look := func(text string) {
		if !strings.Contains(text, "nothing has changed: ") {
			return
		}
		all, err := api.Templates.List(t.Context())
		if err != nil || len(all) != 1 {
			t.Errorf("between two builds there are %d templates, %v", len(all), err)
		}
		seen++
	}
	report, err := bench.Run(t.Context(), api, bench.Options{Rows: append([]string{"template-create-cold"}, buildRows...), Samples: 8, Progress: look})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"template-create-cold": 8, "build-cold": 2, "build-cached": 2, "build-step": 2, "build-step-plain": 2, "build-snapshot": 7}
	if len(report.Rows) != len(want) {
		t.Errorf("%d rows, want %d", len(report.Rows), len(want))
	}
	for _, row := range report.Rows {
		if row.N != want[row.Name] || row.P50 <= 0 || row.Error != "" {
			t.Errorf("%+v, want %d samples", row, want[row.Name])
		}
		if row.Name == "build-snapshot" && (row.Unit != "MB" || row.P50 != 12.582912 || !strings.HasSuffix(row.Note, "the files of the image are 126 MB")) {
			t.Errorf("%+v, want what the server tells of the snapshot and the image", row)
		}
	}
	if seen != 2 {
		t.Errorf("%d builds were told of in which nothing had changed, want 2", seen)
	}
	wantNothing(t, server, api)
	wantTemplates(t, api)
}

// fronted returns a client of a server that answers itself before the stand-in
// is asked.
func fronted(t *testing.T, before func(http.ResponseWriter, *http.Request) (done bool)) (*clienttest.Server, *client.Client) {
	t.Helper()
	server, _ := standIn(t)
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !before(w, r) {
			_ = http.NewResponseController(w).EnableFullDuplex() // or an answer that begins at once may be cut off
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	api, err := client.New(client.Options{APIURL: front.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	return server, api
}

// That a server builds nothing is no failure, and is said in all rows that need
// it to.
func TestRunWithoutBuilds(t *testing.T) {
	server, api := fronted(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/templates/validate" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"code":503,"message":"building templates needs a server built with BuildKit"}`))
		return true
	})
	rows := append([]string{"template-create-warm", "template-create-cold", "template-first-request", "pool-refill"}, buildRows...)
	report, err := bench.Run(t.Context(), api, bench.Options{Rows: append(rows, "pause"), Samples: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		said := strings.HasPrefix(row.Note, "not measured: ") && strings.Contains(row.Note, "building templates needs a server built with BuildKit")
		if builds := row.Name != "pause" && row.Name != "resume"; row.Error != "" || builds != said || builds != (row.N == 0) {
			t.Errorf("%s has %d samples and says %q", row.Name, row.N, row.Remark())
		}
	}
	if len(report.Rows) != len(rows)+1 {
		t.Errorf("%d rows, want %d", len(report.Rows), len(rows)+1)
	}
	wantNothing(t, server, api)
}

// A build that fails spoils its rows only.
func TestRunBuildFails(t *testing.T) {
	server, api := fronted(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/builds") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"code":429,"message":"the team has as many builds as it may"}`))
		return true
	})
	report, err := bench.Run(t.Context(), api, bench.Options{Rows: []string{"pool-refill", "build-step", "checkpoint"}, Samples: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if failed := strings.Contains(row.Error, "as many builds as it may"); failed != (row.Name != "checkpoint") || failed != (row.N == 0) {
			t.Errorf("%s has %d samples and says %q", row.Name, row.N, row.Remark())
		}
	}
	wantNothing(t, server, api)
	wantTemplates(t, api)
}

// What is being built when somebody interrupts is removed, too.
func TestRunBuildsInterrupted(t *testing.T) {
	errStop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	server, api := fronted(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/events") {
			cancel(errStop)
		}
		return false
	})
	if _, err := bench.Run(ctx, api, bench.Options{Rows: []string{"build-cold"}, Samples: 4}); !errors.Is(err, errStop) {
		t.Errorf("Run ended with %v, want the cause of its context", err)
	}
	wantNothing(t, server, api)
	wantTemplates(t, api)
}
