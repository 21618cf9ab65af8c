package proxy_test

import (
	"io"
	"net/http"
	"strconv"
	"testing"
)

// The budget of both is 500 MB/s with a real sandbox at the other end.

const benchSize = 256 << 20

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkDownload(b *testing.B) {
	w := newWorld(b)
	w.serve(boxA, agent, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", strconv.Itoa(benchSize))
		chunk := make([]byte, 1<<20)
		for range benchSize / len(chunk) {
			rw.Write(chunk)
		}
	})
	b.SetBytes(benchSize)
	buf := make([]byte, 1<<20)
	for b.Loop() {
		res := w.do(w.request("GET", boxA, agent, "/files", nil))
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf); n != benchSize || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	w := newWorld(b)
	w.serve(boxA, agent, func(_ http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1<<20))
	})
	b.SetBytes(benchSize)
	for b.Loop() {
		r := w.request("POST", boxA, agent, "/files", io.LimitReader(zeros{}, benchSize))
		r.ContentLength = benchSize
		w.read(w.do(r))
	}
}
