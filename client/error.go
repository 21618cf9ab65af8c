package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// ExitError says that a program ended, and not with 0.
type ExitError struct {
	// Code is what the program ended with, -1 if a signal ended it.
	Code int
	// Status is how the server words it: "exit status 3", "signal: killed".
	Status string
	// Stderr is what [Sandbox.Run] collected; empty if it was written to
	// [RunOptions.Stderr].
	Stderr string
}

// Error returns the status.
func (e *ExitError) Error() string {
	if e.Status != "" {
		return e.Status
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Signal returns the signal that ended the program, 0 if none did.
func (e *ExitError) Signal() syscall.Signal {
	name, ok := strings.CutPrefix(e.Status, "signal: ")
	if !ok {
		return 0
	}
	name = strings.TrimSuffix(name, " (core dumped)")
	const last = 31 // the last one that has a name
	for s := syscall.Signal(1); s <= last; s++ {
		if s.String() == name {
			return s
		}
	}
	return 0
}

// kindOfStatus is the table from HTTP statuses to kinds; everything else is
// Internal.
var kindOfStatus = map[int]soulbox.Kind{
	http.StatusBadRequest:            soulbox.Invalid,
	http.StatusUnprocessableEntity:   soulbox.Invalid,
	http.StatusMethodNotAllowed:      soulbox.Invalid,
	http.StatusUnsupportedMediaType:  soulbox.Invalid,
	http.StatusUnauthorized:          soulbox.Unauthenticated,
	http.StatusForbidden:             soulbox.Forbidden,
	http.StatusNotFound:              soulbox.NotFound,
	http.StatusGone:                  soulbox.NotFound,
	http.StatusConflict:              soulbox.Conflict,
	http.StatusRequestEntityTooLarge: soulbox.TooLarge,
	http.StatusTooManyRequests:       soulbox.Exhausted,
	http.StatusInsufficientStorage:   soulbox.Exhausted,
	http.StatusBadGateway:            soulbox.Unavailable,
	http.StatusServiceUnavailable:    soulbox.Unavailable,
	http.StatusGatewayTimeout:        soulbox.Unavailable,
}

// kindOfCode is the same table for calls into a sandbox.
var kindOfCode = map[connectjson.Code]soulbox.Kind{
	connectjson.InvalidArgument:    soulbox.Invalid,
	connectjson.OutOfRange:         soulbox.Invalid,
	connectjson.Unimplemented:      soulbox.Invalid,
	connectjson.Unauthenticated:    soulbox.Unauthenticated,
	connectjson.PermissionDenied:   soulbox.Forbidden,
	connectjson.NotFound:           soulbox.NotFound,
	connectjson.AlreadyExists:      soulbox.Conflict,
	connectjson.Aborted:            soulbox.Conflict,
	connectjson.FailedPrecondition: soulbox.Conflict,
	connectjson.ResourceExhausted:  soulbox.Exhausted,
	connectjson.Unavailable:        soulbox.Unavailable,
	connectjson.Canceled:           soulbox.Unavailable,
	connectjson.DeadlineExceeded:   soulbox.Unavailable,
}

// answerError turns an answer that says no into an error.
func answerError(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer)) // a part is enough for a sentence
	var body struct {
		Message  string `json:"message"`
		Revision string `json:"revision"`
	}
	if json.Unmarshal(data, &body) != nil || body.Message == "" {
		body.Message = "the server answered " + resp.Status
	}
	err := soulbox.Errorf(kindOfStatus[resp.StatusCode], "%s", body.Message)
	if body.Revision != "" {
		return &soulbox.OutdatedError{Revision: body.Revision, Err: err}
	}
	return err
}

// errorWire is an error within an answer whose status was decided before.
type errorWire struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (w errorWire) err() error { return soulbox.Errorf(kindOfStatus[w.Code], "%s", w.Message) }

// rpcError turns the error of a call into a sandbox into one with a kind.
func rpcError(ctx context.Context, server string, err error) error {
	if ctx.Err() != nil {
		return contextError(ctx, server)
	}
	e, ok := errors.AsType[*connectjson.Error](err)
	if !ok {
		return unreachable(server, err)
	}
	return soulbox.Hide(kindOfCode[e.Code], err, e.Message)
}

// contextError says that ctx ended before server did its part. The reason is in
// its chain.
func contextError(ctx context.Context, server string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return soulbox.Hide(soulbox.Unavailable, cause, "the server at "+server+" did not answer in time")
	}
	return cause
}

// unreachable says that no answer came from server.
func unreachable(server string, err error) error {
	why := err.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		why = errno.Error()
	} else if dns, ok := errors.AsType[*net.DNSError](err); ok {
		why = dns.Error()
	} else if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		why = "the connection was closed"
	}
	return soulbox.Hide(soulbox.Unavailable, err, "the server at "+server+" does not answer: "+why)
}
