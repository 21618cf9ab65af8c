package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// statuses is the HTTP status of each kind of error.
var statuses = map[soulbox.Kind]int{
	soulbox.Internal:        http.StatusInternalServerError,
	soulbox.Invalid:         http.StatusBadRequest,
	soulbox.Unauthenticated: http.StatusUnauthorized,
	soulbox.Forbidden:       http.StatusForbidden,
	soulbox.NotFound:        http.StatusNotFound,
	soulbox.Conflict:        http.StatusConflict,
	soulbox.TooLarge:        http.StatusRequestEntityTooLarge,
	soulbox.Exhausted:       http.StatusTooManyRequests,
	soulbox.Unavailable:     http.StatusServiceUnavailable,
}

// Status returns the HTTP status of err, which is also the code in its body.
func Status(err error) int {
	if s, ok := statuses[soulbox.KindOf(err)]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// answerTime is how long a client may take to fetch an answer.
const answerTime = time.Minute

// Answer answers with v as JSON. A client that does not fetch its answer loses
// the connection after a minute.
func Answer(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	Send(w, status, "application/json", append(b, '\n'))
	return nil
}

// Send answers with b, which is of the media type kind. A client that does not
// fetch its answer loses the connection after a minute.
func Send(w http.ResponseWriter, status int, kind string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))

	// The deadline is the connection's, and what is asked on it next may be a
	// stream: so all is sent here and the deadline taken away again. A client
	// that has gone is not our error.
	conn := http.NewResponseController(w)
	_ = conn.SetWriteDeadline(time.Now().Add(answerTime))
	w.WriteHeader(status)
	_, _ = w.Write(b)
	_ = conn.Flush()
	_ = conn.SetWriteDeadline(time.Time{})
}

// Failure is the body of an answer that is an error.
type Failure struct {
	Code    int    `json:"code"` // the HTTP status
	Message string `json:"message"`
}

func answerError(w http.ResponseWriter, status int, msg string) {
	_ = Answer(w, status, Failure{Code: status, Message: msg}) // an int and a string always encode
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	code int // 0: nothing yet
}

func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= 200 {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap lets [http.ResponseController] flush and set deadlines.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) started() bool { return a.code != 0 }

func (a *answer) status() int {
	if a.code == 0 {
		return http.StatusOK // what net/http sends for a handler that said nothing
	}
	return a.code
}

// statusOnly is a ResponseWriter that keeps status and header and drops the rest.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}

func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
func (s *statusOnly) WriteHeader(code int)        { s.status = code }

// cause returns what the log should show of err: all of its chain, with what
// [soulbox.Hide] hid from the customer.
func cause(err error) error {
	e, ok := errors.AsType[*soulbox.Error](err)
	if !ok || e.Unwrap() == nil || strings.Contains(e.Msg, e.Unwrap().Error()) {
		return err
	}
	return fmt.Errorf("%w: %w", err, e.Unwrap())
}
