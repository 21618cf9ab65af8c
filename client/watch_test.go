package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func TestMetrics(t *testing.T) {
	c, _ := newClient(t)
	box, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for u, err := range c.Sandboxes.Metrics(t.Context(), box.ID, client.MetricsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if u.CPUPercent != 25 || u.MemUsed != 64*soulbox.MiB || u.At.IsZero() {
			t.Errorf("measurement: %+v", u)
		}
	}
	if n != 1 {
		t.Errorf("%d measurements, want 1", n)
	}
}

// recorder answers requests without a network, so that synctest can wait.
type recorder struct{ http.Handler }

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w.Result(), nil
}

// Following a log neither loses nor repeats a line, although its cursor is
// coarser than its times and its pages are short of a millisecond.
func TestFollowLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		at := func(us int) time.Time { return began.Add(time.Duration(us) * time.Microsecond) }
		type entry struct {
			At time.Time
			ID int
		}
		// Three in one millisecond, of which the last comes late; then one by one.
		var all []entry
		add := func(us int) { all = append(all, entry{at(us), len(all)}) }
		add(100)
		add(200)
		polls := 0
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/sandboxes/i1", func(w http.ResponseWriter, _ *http.Request) {
			polls++
			switch polls {
			case 2:
				add(300)
			case 3:
				add(5_000)
				add(5_500)
			case 4:
				add(9_000)
				_, _ = fmt.Fprintf(w, `{"id":"i1","ended_at":%q}`, began.Format(time.RFC3339))
				return
			}
			_, _ = w.Write([]byte(`{"id":"i1"}`))
		})
		mux.HandleFunc("GET /v2/sandboxes/i1/logs", func(w http.ResponseWriter, r *http.Request) {
			cursor, _ := strconv.ParseInt(r.URL.Query().Get("cursor"), 10, 64)
			list := ""
			for _, e := range all {
				if e.At.Before(time.UnixMilli(cursor)) {
					continue
				}
				if list != "" {
					list += ","
				}
				list += fmt.Sprintf(`{"timestamp":%q,"level":"info","message":"%d"}`, e.At.Format(time.RFC3339Nano), e.ID)
			}
			_, _ = fmt.Fprintf(w, `{"logs":[%s]}`, list)
		})
		c, err := client.New(client.Options{APIURL: "http://x", HTTPClient: &http.Client{Transport: recorder{mux}}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for e, err := range c.Sandboxes.Logs(t.Context(), "i1", client.LogsOptions{Follow: true}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Message)
		}
		if want := []string{"0", "1", "2", "3", "4", "5"}; !cmp.Equal(got, want) {
			t.Errorf("Logs: %v, want %v", got, want)
		}
	})
}
