package connectjson_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/internal/connectjson"
)

type inner struct {
	FileName string             `json:"fileName,omitempty"`
	Size     connectjson.Int64  `json:"size,omitempty"`
	Depth    connectjson.Uint32 `json:"depth,omitempty"`
}

type message struct {
	Text    string            `json:"text,omitempty"`
	Data    connectjson.Bytes `json:"data,omitempty"`
	Inner   *inner            `json:"inner,omitempty"`
	Items   []inner           `json:"items,omitempty"`
	EnvVars map[string]string `json:"envVars,omitempty"`
}

// serve starts a server with one procedure of each kind.
func serve(t *testing.T) (*connectjson.Client, string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/echo", connectjson.Unary(func(_ context.Context, _ http.Header, m *message) (*message, error) {
		if code, ok := strings.CutPrefix(m.Text, "fail:"); ok {
			return nil, connectjson.Errorf(connectjson.Code(code), "as told")
		}
		return m, nil
	}))
	mux.Handle("/wait", connectjson.Unary(func(ctx context.Context, _ http.Header, m *message) (*message, error) {
		<-ctx.Done()
		return m, ctx.Err()
	}))
	mux.Handle("/count", connectjson.ServerStream(func(_ context.Context, _ http.Header, m *message, out *connectjson.Sender[message]) error {
		for _, c := range m.Text {
			if err := out.Send(&message{Text: string(c)}); err != nil {
				return err
			}
		}
		if m.Inner != nil {
			return connectjson.Errorf(connectjson.NotFound, "no more")
		}
		return out.SendLast(&message{Text: "last"})
	}))
	mux.Handle("/hold", connectjson.ServerStream(func(ctx context.Context, _ http.Header, _ *message, out *connectjson.Sender[message]) error {
		if err := out.Send(&message{Text: "first"}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	mux.Handle("/join", connectjson.ClientStream(func(_ context.Context, _ http.Header, in *connectjson.Receiver[message]) (*message, error) {
		var all string
		for {
			m, err := in.Receive()
			if errors.Is(err, io.EOF) {
				return &message{Text: all}, nil
			}
			if err != nil {
				return nil, err
			}
			all += m.Text
		}
	}))
	mux.HandleFunc("/proxy", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, `{"message":"The sandbox was not found","code":502}`)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/connect+json")
		w.Write(envelope(0, `{"text":"a"}`))
	})
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/connect+json")
		w.Write([]byte{0, 0xff, 0xff, 0xff, 0xff})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return &connectjson.Client{HTTP: srv.Client(), Base: srv.URL}, srv.URL
}

func envelope(flags byte, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(payload)))
	return append(b, payload...)
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.Bytes()
}

// post sends a raw request and returns status, header and body.
func post(t *testing.T, url, contentType string, body []byte, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func TestCall(t *testing.T) {
	c, _ := serve(t)
	want := &message{
		Text: "a<b>&", Data: []byte{0, 255, 254},
		Inner:   &inner{FileName: "f", Size: 1 << 60, Depth: 4_000_000_000},
		EnvVars: map[string]string{"a_b": "c_d"},
	}
	got, err := connectjson.Call[message](t.Context(), c, "/echo", want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("echo (-want +got):\n%s", diff)
	}
}

func TestErrorCodes(t *testing.T) {
	_, base := serve(t)
	for code, status := range map[connectjson.Code]int{
		connectjson.Canceled: 499, connectjson.Unknown: 500, connectjson.InvalidArgument: 400,
		connectjson.DeadlineExceeded: 504, connectjson.NotFound: 404, connectjson.AlreadyExists: 409,
		connectjson.PermissionDenied: 403, connectjson.ResourceExhausted: 429, connectjson.FailedPrecondition: 400,
		connectjson.Aborted: 409, connectjson.OutOfRange: 400, connectjson.Unimplemented: 501,
		connectjson.Internal: 500, connectjson.Unavailable: 503, connectjson.DataLoss: 500, connectjson.Unauthenticated: 401,
	} {
		got, _, body := post(t, base+"/echo", "application/json", []byte(`{"text":"fail:`+string(code)+`"}`))
		want := `{"code":"` + string(code) + `","message":"as told"}`
		if got != status || body != want {
			t.Errorf("%s = %d %s, want %d %s", code, got, body, status, want)
		}
	}
}

func TestWire(t *testing.T) {
	_, base := serve(t)
	const unary, stream = "application/json", "application/connect+json"
	tests := []struct {
		name, path, contentType string
		body                    []byte
		header                  []string
		status                  int
		want                    string
	}{
		{"empty message", "/echo", unary, []byte(`{}`), nil, 200, `{}`},
		{"charset", "/echo", unary + "; charset=UTF-8", []byte(`{}`), nil, 200, `{}`},
		{
			"snake_case", "/echo", unary, []byte(`{"env_vars":{"A_B":"c_d"},"inner":{"file_name":"x"},"items":[{"file_name":"y"}]}`), nil, 200,
			`{"inner":{"fileName":"x"},"items":[{"fileName":"y"}],"envVars":{"A_B":"c_d"}}`,
		},
		{"unknown fields", "/echo", unary, []byte(`{"text":"a","x":{"y":[1]},"snake_x":2}`), nil, 200, `{"text":"a"}`},
		{"numbers", "/echo", unary, []byte(`{"inner":{"size":7,"depth":"8"}}`), nil, 200, `{"inner":{"size":"7","depth":8}}`},
		{"exponent", "/echo", unary, []byte(`{"inner":{"size":"-7","depth":1e3}}`), nil, 200, `{"inner":{"size":"-7","depth":1000}}`},
		{"null", "/echo", unary, []byte(`{"text":null,"data":null,"inner":{"size":null,"depth":null}}`), nil, 200, `{"inner":{}}`},
		{"url base64", "/echo", unary, []byte(`{"data":"_-8"}`), nil, 200, `{"data":"/+8="}`},
		{"gzip", "/echo", unary, zipped(`{"text":"a"}`), []string{"Content-Encoding", "gzip"}, 200, `{"text":"a"}`},
		{"unknown encoding", "/echo", unary, []byte(`{}`), []string{"Content-Encoding", "br"}, 501, `{"code":"unimplemented","message":"unknown compression \"br\": supported encodings are gzip"}`},
		{"not gzip", "/echo", unary, []byte(`{}`), []string{"Content-Encoding", "gzip"}, 400, ``},
		{"no body", "/echo", unary, nil, nil, 400, ``},
		{"array", "/echo", unary, []byte(`[]`), nil, 400, ``},
		{"broken", "/echo", unary, []byte(`{"text":`), nil, 400, ``},
		{"wrong type", "/echo", unary, []byte(`{"text":5}`), nil, 400, ``},
		{"negative", "/echo", unary, []byte(`{"inner":{"depth":-1}}`), nil, 400, ``},
		{"too big", "/echo", unary, []byte(`{"inner":{"depth":4294967296}}`), nil, 400, ``},
		{"fraction", "/echo", unary, []byte(`{"inner":{"depth":1.5}}`), nil, 400, ``},
		{"not base64", "/echo", unary, []byte(`{"data":"!"}`), nil, 400, ``},
		{"proto", "/echo", "application/proto", nil, nil, 415, ``},
		{"grpc", "/count", "application/grpc", nil, nil, 415, ``},
		{"unary type on a stream", "/count", unary, []byte(`{}`), nil, 415, ``},
		{"version 2", "/echo", unary, []byte(`{}`), []string{"Connect-Protocol-Version", "2"}, 400, ``},
		{"bad timeout", "/echo", unary, []byte(`{}`), []string{"Connect-Timeout-Ms", "soon"}, 400, ``},
		{"long timeout", "/echo", unary, []byte(`{}`), []string{"Connect-Timeout-Ms", "12345678901"}, 400, ``},
		{"no timeout", "/echo", unary, []byte(`{}`), []string{"Connect-Timeout-Ms", "0"}, 200, `{}`},
		{"timeout", "/wait", unary, []byte(`{}`), []string{"Connect-Timeout-Ms", "10"}, 504, `{"code":"deadline_exceeded","message":"context deadline exceeded"}`},
		{
			"stream timeout", "/hold", stream, envelope(0, `{}`),
			[]string{"Connect-Timeout-Ms", "10"},
			200,
			string(envelope(0, `{"text":"first"}`)) + string(envelope(2, `{"error":{"code":"deadline_exceeded","message":"context deadline exceeded"}}`)),
		},
		{
			"stream", "/count", stream, envelope(0, `{"text":"ab"}`), nil, 200,
			string(envelope(0, `{"text":"a"}`)) + string(envelope(0, `{"text":"b"}`)) + string(envelope(0, `{"text":"last"}`)) + string(envelope(2, `{}`)),
		},
		{"stream error", "/count", stream, envelope(0, `{"inner":{}}`), nil, 200, string(envelope(2, `{"error":{"code":"not_found","message":"no more"}}`))},
		{
			"compressed stream", "/count", stream, envelope(1, string(zipped(`{"inner":{}}`))),
			[]string{"Connect-Content-Encoding", "gzip"},
			200,
			string(envelope(2, `{"error":{"code":"not_found","message":"no more"}}`)),
		},
		{"compressed without a name", "/count", stream, envelope(1, "x"), nil, 200, string(envelope(2, `{"error":{"code":"internal","message":"protocol error: compressed message without a named compression"}}`))},
		{"two requests", "/count", stream, append(envelope(0, `{}`), envelope(0, `{}`)...), nil, 200, string(envelope(2, `{"error":{"code":"unimplemented","message":"the request has more than one message"}}`))},
		{"no request", "/count", stream, nil, nil, 200, string(envelope(2, `{"error":{"code":"unimplemented","message":"the request has no message"}}`))},
		{"end flag", "/count", stream, envelope(2, `{}`), nil, 200, string(envelope(2, `{"error":{"code":"invalid_argument","message":"protocol error: a request does not end with a message"}}`))},
		{"short head", "/count", stream, []byte{0, 0}, nil, 200, string(envelope(2, `{"error":{"code":"invalid_argument","message":"protocol error: incomplete envelope"}}`))},
		{"short message", "/count", stream, []byte{0, 0, 0, 0, 9, '{'}, nil, 200, string(envelope(2, `{"error":{"code":"invalid_argument","message":"protocol error: promised 9 bytes in the message, got 1"}}`))},
		{"huge message", "/count", stream, []byte{0, 0xff, 0, 0, 0}, nil, 200, string(envelope(2, `{"error":{"code":"resource_exhausted","message":"message size 4278190080 is larger than the limit of 33554432 bytes"}}`))},
		{"client stream", "/join", stream, append(envelope(0, `{"text":"a"}`), envelope(0, `{"text":"b"}`)...), nil, 200, string(envelope(0, `{"text":"ab"}`)) + string(envelope(2, `{}`))},
		{"empty client stream", "/join", stream, nil, nil, 200, string(envelope(0, `{}`)) + string(envelope(2, `{}`))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, header, body := post(t, base+tt.path, tt.contentType, tt.body, tt.header...)
			if status != tt.status {
				t.Errorf("status = %d %q, want %d", status, body, tt.status)
			}
			if tt.want != "" && body != tt.want {
				t.Errorf("body = %q, want %q", body, tt.want)
			}
			if status == 415 && header.Get("Accept-Post") == "" {
				t.Error("415 without Accept-Post")
			}
		})
	}
}

func TestMethod(t *testing.T) {
	_, base := serve(t)
	resp, err := http.Get(base + "/echo")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET = %d, Allow %q; want 405, POST", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

func TestOpen(t *testing.T) {
	c, _ := serve(t)
	in, err := connectjson.Open[message](t.Context(), c, "/count", &message{Text: "xy"})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var got []string
	for {
		m, err := in.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Text)
	}
	if diff := cmp.Diff([]string{"x", "y", "last"}, got); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
}

func TestClientErrors(t *testing.T) {
	c, _ := serve(t)
	receive := func(ctx context.Context, path string, m *message) error {
		in, err := connectjson.Open[message](ctx, c, path, m)
		if err != nil {
			return err
		}
		defer in.Close()
		for {
			if _, err := in.Receive(); err != nil {
				return err
			}
		}
	}
	call := func(ctx context.Context, path string, m *message) error {
		_, err := connectjson.Call[message](ctx, c, path, m)
		return err
	}
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	tests := []struct {
		name string
		err  error
		want connectjson.Code
		text string
	}{
		{"unary", call(t.Context(), "/echo", &message{Text: "fail:aborted"}), connectjson.Aborted, "as told"},
		{"stream", receive(t.Context(), "/count", &message{Inner: &inner{}}), connectjson.NotFound, "no more"},
		{"somebody on the way", call(t.Context(), "/proxy", &message{}), connectjson.Unavailable, "The sandbox was not found"},
		{"somebody on a stream's way", receive(t.Context(), "/proxy", &message{}), connectjson.Unavailable, "The sandbox was not found"},
		{"no such procedure", call(t.Context(), "/nothing", &message{}), connectjson.Unimplemented, "404"},
		{"cut off", receive(t.Context(), "/cut", &message{}), connectjson.Unavailable, "without its last message"},
		{"huge", receive(t.Context(), "/huge", &message{}), connectjson.ResourceExhausted, "larger than the limit"},
		{"deadline", call(soon(), "/wait", &message{}), connectjson.DeadlineExceeded, "deadline"},
		{"no server", func() error {
			_, err := connectjson.Call[message](t.Context(), &connectjson.Client{HTTP: http.DefaultClient, Base: "http://127.0.0.1:1"}, "/echo", &message{})
			return err
		}(), connectjson.Unavailable, "refused"},
	}
	for _, tt := range tests {
		if got := connectjson.CodeOf(tt.err); got != tt.want || !strings.Contains(tt.err.Error(), tt.text) {
			t.Errorf("%s: %v (%s), want %s with %q", tt.name, tt.err, got, tt.want, tt.text)
		}
	}
}

// Somebody who speaks another protocol from then on does not hold a call up
// that has ended.
func TestSwitchingProtocols(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		io.Copy(io.Discard, conn) // until the other side ends it
	}))
	defer srv.Close()
	ended := make(chan error)
	go func() {
		_, err := connectjson.Call[message](t.Context(), &connectjson.Client{HTTP: srv.Client(), Base: srv.URL}, "/echo", &message{})
		ended <- err
	}()
	select {
	case err := <-ended:
		if got := connectjson.CodeOf(err); got != connectjson.Unknown {
			t.Errorf("Call: %v (%s), want %s", err, got, connectjson.Unknown)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Call does not return")
	}
}

// A caller that goes away ends the handler's context.
func TestCallerLeaves(t *testing.T) {
	gone := make(chan struct{})
	srv := httptest.NewServer(connectjson.ServerStream(func(ctx context.Context, _ http.Header, _ *message, out *connectjson.Sender[message]) error {
		out.Send(&message{})
		<-ctx.Done()
		close(gone)
		return ctx.Err()
	}))
	defer srv.Close()
	in, err := connectjson.Open[message](t.Context(), &connectjson.Client{HTTP: srv.Client(), Base: srv.URL}, "/", &message{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Receive(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the handler still runs 5 s after its caller has gone")
	}
}

// FuzzReceive feeds a client stream with anything: it must neither panic nor
// believe in a length before the bytes are there.
func FuzzReceive(f *testing.F) {
	f.Add(envelope(0, `{"text":"a"}`))
	f.Add(envelope(1, string(zipped(`{"text":"a"}`))))
	f.Add(envelope(2, `{"error":{"code":"x"}}`))
	f.Add([]byte{0, 1, 0xff, 0xff, 0xff, 0})
	f.Add(envelope(0, `{"inner":{"file_name":"x","size":"1","depth":1e2},"data":"_-=="}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var got []*message
		h := connectjson.ClientStream(func(_ context.Context, _ http.Header, in *connectjson.Receiver[message]) (*message, error) {
			for {
				m, err := in.Receive()
				if err != nil {
					if errors.Is(err, io.EOF) {
						return &message{}, nil
					}
					return nil, err
				}
				got = append(got, m)
			}
		})
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/connect+json")
		req.Header.Set("Connect-Content-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != http.StatusOK || len(got) > len(body)/5 {
			t.Errorf("status %d and %d messages from %d bytes", w.Code, len(got), len(body))
		}
	})
}
