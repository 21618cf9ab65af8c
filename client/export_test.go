package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }

// An export that is not all of it is an error that says whose fault it is.
func TestExportCutOff(t *testing.T) {
	more := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(make([]byte, 1<<20)) // the client may have gone
		if strings.Contains(r.URL.Path, "waits") {
			_ = http.NewResponseController(w).Flush()
			<-more
		}
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	defer close(more)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: "key"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = c.Templates.Export(t.Context(), "app", "", &out)
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "hung up before it was done") {
		t.Errorf("Export = %v after %d bytes, want Unavailable", err, out.Len())
	}
	broken := errors.New("the disk is full")
	if err := c.Templates.Export(t.Context(), "app", "", full{broken}); !errors.Is(err, broken) || soulbox.KindOf(err) == soulbox.Unavailable {
		t.Errorf("Export = %v, want what the writer says", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Templates.Export(ctx, "waits", "", writer(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Export = %v, want canceled", err)
	}
}
