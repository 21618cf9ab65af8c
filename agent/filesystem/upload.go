package filesystem

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox/agent/account"
)

// copySize is how much of a file is moved at once.
const copySize = 256 << 10

// statusError is an error with the HTTP status it is answered with.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func statusErrorf(status int, format string, args ...any) error {
	return &statusError{status, fmt.Errorf(format, args...)}
}

// writeError answers one of the /files routes.
func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var se *statusError
	switch {
	case errors.As(err, &se):
		status = se.status
	case full(err):
		status = http.StatusInsufficientStorage
		err = errors.New("not enough disk space available")
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client has gone if this fails
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, err.Error()})
}

// uploaded is what an upload answers for each file.
type uploaded struct {
	Metadata map[string]string `json:"metadata,omitempty"`
	Name     string            `json:"name"`
	Path     string            `json:"path"`
	Type     string            `json:"type"`
}

// upload serves POST /files.
func (s *Service) upload(w http.ResponseWriter, r *http.Request) {
	files, err := s.receive(r)
	if err != nil {
		drain(w, r)
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(files) // the client has gone if this fails
}

// drain reads what is left of a refused upload, within bounds. Without it the
// connection would be closed with unread data, which resets it, and a client
// that is still writing would see that instead of the reason.
func drain(w http.ResponseWriter, r *http.Request) {
	const (
		most    = 64 << 20
		longest = 5 * time.Second
	)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(longest)) // without one there is still the bound in bytes
	_, _ = io.CopyN(io.Discard, r.Body, most)                                  // whatever came is dropped
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// user looks up the username of a query.
func (s *Service) user(name string) (*account.User, error) {
	u, err := s.accounts.Lookup(name)
	if err != nil {
		return nil, statusErrorf(http.StatusUnauthorized, "error looking up user '%s': %w", name, err)
	}
	return u, nil
}

func (s *Service) receive(r *http.Request) ([]uploaded, error) {
	query := r.URL.Query()
	body, err := decoded(r)
	if err != nil {
		return nil, err
	}
	u, err := s.user(query.Get("username"))
	if err != nil {
		return nil, err
	}
	metadata, err := metadataOf(r.Header)
	if err != nil {
		return nil, &statusError{http.StatusBadRequest, err}
	}
	up := &upload{service: s, user: u, metadata: metadata, files: []uploaded{}}
	contentType := r.Header.Get("Content-Type")
	mediaType, params, _ := mime.ParseMediaType(contentType) // no type is none of ours
	switch {
	case mediaType == "application/octet-stream":
		if !query.Has("path") {
			return nil, statusErrorf(http.StatusBadRequest, "path query parameter is required for raw body upload")
		}
		err = up.store(query.Get("path"), body)
	case strings.HasPrefix(mediaType, "multipart/"):
		if params["boundary"] == "" {
			return nil, statusErrorf(http.StatusBadRequest, "error parsing multipart form: %w", http.ErrMissingBoundary)
		}
		// The parser reads in small pieces; the buffer before it does not.
		form := multipart.NewReader(bufio.NewReaderSize(body, copySize), params["boundary"])
		err = up.form(form, query)
	default:
		err = statusErrorf(http.StatusBadRequest, "unsupported content type: %s, expected multipart/form-data or application/octet-stream", contentType)
	}
	return up.files, err
}

// decoded returns the body of a request without its Content-Encoding.
func decoded(r *http.Request) (io.Reader, error) {
	switch enc := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, statusErrorf(http.StatusBadRequest, "error decompressing request body: %w", err)
		}
		return z, nil
	default:
		return nil, statusErrorf(http.StatusBadRequest, "error decompressing request body: unsupported Content-Encoding: %s, supported: [gzip]", enc)
	}
}

// upload is one request that stores files.
type upload struct {
	service  *Service
	user     *account.User
	metadata map[string]string
	files    []uploaded
}

// form stores the parts named "file" of a form. Each part names its path,
// unless the query does.
func (up *upload) form(form *multipart.Reader, query map[string][]string) error {
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return statusErrorf(http.StatusBadRequest, "error reading form: %w", err)
		}
		if part.FormName() != "file" {
			continue
		}
		var path string
		if values, ok := query["path"]; ok {
			path = values[0]
		} else {
			// Part.FileName would cut off the directories.
			_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
			if err != nil {
				return statusErrorf(http.StatusBadRequest, "error getting multipart custom part file name: %w", err)
			}
			name, ok := params["filename"]
			if !ok {
				return statusErrorf(http.StatusBadRequest, "error getting multipart custom part file name: filename not found in Content-Disposition header")
			}
			path = name
		}
		if err := up.store(path, part); err != nil {
			return err
		}
	}
}

// store writes one file.
func (up *upload) store(path string, content io.Reader) error {
	path, err := up.service.accounts.Resolve(up.user, path)
	if err != nil {
		return statusErrorf(http.StatusBadRequest, "error resolving path: %w", err)
	}
	var others []string
	for _, f := range up.files {
		if f.Path != path {
			others = append(others, f.Path)
		}
	}
	if len(others) < len(up.files) {
		err := fmt.Errorf("you cannot upload multiple files to the same path '%s' in one upload request, only the first specified file was uploaded", path)
		if len(others) > 0 {
			err = fmt.Errorf("%w, also the following files were uploaded: %v", err, strings.Join(others, ", "))
		}
		return &statusError{http.StatusBadRequest, err}
	}
	stored, err := up.service.store(path, content, up.user, up.metadata)
	if err != nil {
		return err
	}
	up.files = append(up.files, uploaded{Metadata: stored, Name: filepath.Base(path), Path: path, Type: "file"})
	return nil
}

// store writes content to path, owned by u, and returns the metadata that the
// file now has.
func (s *Service) store(path string, content io.Reader, u *account.User, metadata map[string]string) (stored map[string]string, err error) {
	buf, ok := s.buffers.Get().(*[copySize]byte)
	if !ok {
		buf = new([copySize]byte)
	}
	defer s.buffers.Put(buf)
	content = whole{content}

	// The first buffer before the file: an upload that breaks off in it changes
	// nothing.
	n, readErr := io.ReadFull(content, buf[:])
	if readErr != nil && !ended(readErr) {
		return nil, statusErrorf(http.StatusBadRequest, "error reading upload: %w", readErr)
	}

	f, created, err := open(path, u)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			giveUp(f, path, created)
		}
	}()
	for {
		if _, err := f.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("error writing file: %w", err)
		}
		if readErr != nil {
			break
		}
		if n, readErr = io.ReadFull(content, buf[:]); readErr != nil && !ended(readErr) {
			return nil, statusErrorf(http.StatusBadRequest, "error reading upload: %w", readErr)
		}
	}
	// Also without metadata: an upload replaces what an earlier one has set.
	if !created || len(metadata) > 0 {
		if err := s.writeMetadata(f, metadata); err != nil {
			return nil, err
		}
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("error writing file: %w", err)
	}
	return metadata, nil
}

// ended reports whether ReadFull has come to the proper end of its source. It
// says io.ErrUnexpectedEOF for a last piece that does not fill the buffer, and
// a body that was cut off says the same; whole tells the two apart.
func ended(err error) bool {
	var cut *cutOffError
	return !errors.As(err, &cut) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}

// cutOffError is an end of file where there should be none.
type cutOffError struct{ err error }

func (e *cutOffError) Error() string { return "unexpected end of the request body" }
func (e *cutOffError) Unwrap() error { return e.err }

// whole marks the untimely end of a body, which net/http, gzip and multipart
// all report as io.ErrUnexpectedEOF.
type whole struct{ io.Reader }

func (w whole) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = &cutOffError{err}
	}
	return n, err
}

// open opens path for an upload, empty and owned by u, and reports whether
// that made it.
func open(path string, u *account.User) (f *os.File, created bool, err error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	fi, err := os.Stat(path) //nolint:gosec // opening the paths that clients name is what this is for
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		created = true
		if err := makeDirs(filepath.Dir(path), u); err != nil {
			if errors.Is(err, errNotDir) {
				return nil, false, &statusError{http.StatusBadRequest, err}
			}
			return nil, false, fmt.Errorf("error ensuring directories: %w", err)
		}
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP):
		return nil, false, &statusError{http.StatusBadRequest, err}
	case err != nil:
		return nil, false, fmt.Errorf("error getting file info: %w", err)
	case fi.IsDir():
		return nil, false, statusErrorf(http.StatusBadRequest, "path is a directory: %s", path)
	case fi.Mode()&fs.ModeNamedPipe != 0:
		flags |= syscall.O_NONBLOCK // or opening waits for a reader
	}
	const mode = 0o666                                       // less the umask
	if f, err = os.OpenFile(path, flags, mode); err != nil { //nolint:gosec // opening the paths that clients name is what this is for
		if errors.Is(err, syscall.ENXIO) {
			return nil, false, &statusError{http.StatusBadRequest, err}
		}
		return nil, false, fmt.Errorf("error opening file: %w", err)
	}
	st, _ := statOf(fi)
	if created || st == nil || st.Uid != u.UID || st.Gid != u.GID {
		if err := f.Chown(int(u.UID), int(u.GID)); err != nil {
			giveUp(f, path, created)
			return nil, false, fmt.Errorf("error changing file ownership: %w", err)
		}
	}
	return f, created, nil
}

func statOf(fi fs.FileInfo) (*syscall.Stat_t, bool) {
	if fi == nil {
		return nil, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return st, ok
}

// giveUp leaves nothing of a failed upload: no half of a file looks like one.
func giveUp(f *os.File, path string, created bool) {
	_ = f.Truncate(0) // a device has no content to remove
	f.Close()
	if created {
		os.Remove(path) //nolint:gosec // opening the paths that clients name is what this is for
	}
}
