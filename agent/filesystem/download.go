package filesystem

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// download serves GET /files.
func (s *Service) download(w http.ResponseWriter, r *http.Request) {
	if err := s.serve(w, r); err != nil {
		writeError(w, err)
	}
}

// serve sends a file; an error is one that nothing has been sent before.
func (s *Service) serve(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	u, err := s.user(query.Get("username"))
	if err != nil {
		return err
	}
	path, err := s.accounts.Resolve(u, query.Get("path"))
	if err != nil {
		return statusErrorf(http.StatusBadRequest, "error expanding and resolving path '%s': %w", query.Get("path"), err)
	}
	f, fi, err := openFile(path)
	if err != nil {
		return err
	}
	defer f.Close()

	zip, err := wantsGzip(r.Header.Get("Accept-Encoding"))
	if err != nil {
		return err
	}
	for _, name := range []string{"Range", "If-Range", "If-Modified-Since", "If-None-Match"} {
		if r.Header.Get(name) == "" {
			continue
		}
		// These speak of the file's own bytes.
		if zip = false; !identityAllowed(r.Header.Get("Accept-Encoding")) {
			return statusErrorf(http.StatusNotAcceptable, "identity encoding not acceptable for Range or conditional request")
		}
	}
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(path)}))
	if !zip && fi.Size() > 0 {
		http.ServeContent(w, r, path, fi.ModTime(), f)
		return nil
	}
	if !zip {
		return stream(w, r, path, fi.ModTime(), f)
	}
	contentType := mime.TypeByExtension(filepath.Ext(path))
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, f); err != nil {
		// Too late for an error: the client must see that the body is not whole.
		panic(http.ErrAbortHandler)
	}
	_ = z.Close() // the client has gone if this fails
	return nil
}

// stream sends a file that says it is empty. Files of /proc and /sys say so,
// cannot be sought, and have content all the same; those that really are empty
// have none.
func stream(w http.ResponseWriter, r *http.Request, path string, modified time.Time, f *os.File) error {
	const enough = 64 << 10 // for almost every such file
	head := make([]byte, enough)
	n, err := io.ReadFull(f, head)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		http.ServeContent(w, r, path, modified, bytes.NewReader(head[:n]))
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(head), f)); err != nil {
		panic(http.ErrAbortHandler) // the client must see that the body is not whole
	}
	return nil
}

// openFile opens a file to be sent. It does not wait for the writer of a named
// pipe.
func openFile(path string) (*os.File, fs.FileInfo, error) {
	fi, err := os.Stat(path) //nolint:gosec // opening the paths that clients name is what this is for
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, nil, statusErrorf(http.StatusNotFound, "path '%s' does not exist", path)
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP):
		return nil, nil, &statusError{http.StatusBadRequest, err}
	case err != nil:
		return nil, nil, err
	case fi.IsDir():
		return nil, nil, statusErrorf(http.StatusBadRequest, "path '%s' is a directory", path)
	case fi.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeCharDevice) != 0:
		return nil, nil, statusErrorf(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	f, err := os.Open(path) //nolint:gosec // opening the paths that clients name is what this is for
	if err != nil {
		return nil, nil, err
	}
	return f, fi, nil
}

// wantsGzip chooses the encoding of a response. Compressing is slower than the
// network between a sandbox and its host, so it happens only for a client that
// asks for gzip in particular; one that lists all it understands, as HTTP
// libraries do by themselves, gets the file as it is.
func wantsGzip(header string) (bool, error) {
	gzipQ, best := 0.0, 0.0
	for coding, q := range codings(header) {
		switch coding {
		case "gzip":
			gzipQ = q
		case "*":
		default:
			best = max(best, q)
		}
	}
	if gzipQ > best {
		return true, nil
	}
	if identityAllowed(header) {
		return false, nil
	}
	if q, ok := quality(header, "*"); gzipQ > 0 || ok && q > 0 {
		return true, nil
	}
	return false, statusErrorf(http.StatusNotAcceptable, "error parsing Accept-Encoding: no acceptable encoding found, supported: [gzip]")
}

// identityAllowed reports whether a client takes a response without encoding.
func identityAllowed(header string) bool {
	if q, ok := quality(header, "identity"); ok {
		return q > 0
	}
	q, ok := quality(header, "*")
	return !ok || q > 0
}

func quality(header, coding string) (q float64, ok bool) {
	for c, q := range codings(header) {
		if c == coding {
			return q, true
		}
	}
	return 0, false
}

// codings yields the codings of an Accept-Encoding header with their quality.
func codings(header string) func(func(string, float64) bool) {
	return func(yield func(string, float64) bool) {
		for item := range strings.SplitSeq(header, ",") {
			coding, params, _ := strings.Cut(item, ";")
			coding = strings.ToLower(strings.TrimSpace(coding))
			if coding == "" {
				continue
			}
			q := 1.0
			for param := range strings.SplitSeq(params, ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
				if v, err := strconv.ParseFloat(value, 64); err == nil && strings.EqualFold(name, "q") {
					q = v
				}
			}
			if !yield(coding, q) {
				return
			}
		}
	}
}
