package client_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

func sessionsOf(t *testing.T, url string) *client.Sessions {
	t.Helper()
	c, err := client.New(client.Options{APIURL: url, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	return c.Sessions
}

func TestSessions(t *testing.T) {
	s := clienttest.New(t.TempDir())
	defer s.Close()
	c, err := client.New(client.Options{APIURL: s.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.Sessions.Create(ctx, client.SessionOptions{
		Lifetime: time.Hour, Heartbeat: soulbox.Heartbeat{Interval: 5 * time.Second, Then: soulbox.AbsenceKills},
		Metadata: map[string]string{"a": "b"}, Variables: map[string]json.RawMessage{"n": json.RawMessage("1")}, Sandboxes: []string{box.ID},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := made.ExpiresAt.Sub(made.CreatedAt); got != time.Hour || made.Heartbeat.Timeout != 15*time.Second || !made.Member(soulbox.SandboxID(box.ID)) {
		t.Errorf("Create = %+v", made)
	}
	id := string(made.ID)
	got, err := c.Sessions.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("Get (-created +got):\n%s", diff)
	}
	p, err := c.Sessions.Start(ctx, id, soulbox.SessionCommand{Args: []string{"sh", "-c", "for n in 1 2 3 4 5 6 7 8 9; do echo $n; done; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	last, lost := p.After, 0
	for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{After: p.After, Follow: true, Lost: func(error, time.Duration) { lost++ }}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != last+1 {
			t.Fatalf("event %d comes after %d", e.ID, last)
		}
		last = e.ID
		out.Write(e.Guest.Data)
		if e.Guest.Kind == soulbox.EventEnded {
			if e.Guest.ExitCode != 3 {
				t.Errorf("it ended with %d", e.Guest.ExitCode)
			}
			break
		}
	}
	if out.String() != "1\n2\n3\n4\n5\n6\n7\n8\n9\n" {
		t.Errorf("it wrote %q", out.String())
	}
	if _, err := c.Sessions.End(ctx, id, soulbox.AbsenceKills); err != nil {
		t.Fatal(err)
	}
	all := 0
	for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{Follow: true}) { // which ends
		if err != nil {
			t.Fatal(err)
		}
		all++
		if e.ID != uint64(all) {
			t.Fatalf("event %d is number %d", e.ID, all)
		}
	}
	if uint64(all) <= last {
		t.Errorf("%d events, want more than %d", all, last)
	}
	for list, want := range map[bool]int{false: 0, true: 1} {
		n := 0
		for _, err := range c.Sessions.List(ctx, list) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("%d sessions are listed with ended %v, want %d", n, list, want)
		}
	}
	if _, err := c.Sessions.Get(ctx, "../keys"); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Get of nonsense: %v", err)
	}
}

// TestEventsOfBadServers reads streams that are none.
func TestEventsOfBadServers(t *testing.T) {
	const id = "e0123456789abcdefghij"
	for name, test := range map[string]struct {
		status int
		body   string
		want   soulbox.Kind
	}{
		"foreign":    {http.StatusNotFound, `{"message":"no such session"}`, soulbox.NotFound},
		"no JSON":    {http.StatusOK, "data: {\n\n", soulbox.Unavailable},
		"an endless": {http.StatusOK, "data: " + strings.Repeat("x", 2<<20), soulbox.Internal},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
		}))
		for _, err := range sessionsOf(t, s.URL).Events(t.Context(), id, client.EventsOptions{}) {
			if err == nil || soulbox.KindOf(err) != test.want {
				t.Errorf("%s: %v, want an error of kind %d", name, err, test.want)
			}
		}
		s.Close()
	}
	// Nobody is there: it is tried until the context ends.
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	for _, err := range sessionsOf(t, "http://127.0.0.1:1").Events(ctx, id, client.EventsOptions{Follow: true, Lost: func(error, time.Duration) {
		if tries++; tries == 3 {
			cancel()
		}
	}}) {
		if err == nil || ctx.Err() == nil {
			t.Errorf("Events = %v", err)
		}
	}
	if tries != 3 {
		t.Errorf("it was tried %d times, want 3", tries)
	}
}
