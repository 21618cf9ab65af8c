// Package connectjson speaks the Connect protocol with its JSON codec over
// HTTP/1.1, as a server and as a client.
//
// It exists because the agent runs inside every sandbox: a Protobuf runtime and
// a full RPC library would double its size and its memory, and the clients it
// serves only ever send JSON. What is here is exact for that codec:
//
//   - unary calls (application/json),
//   - server streams and client streams (application/connect+json): five bytes
//     of envelope before each message, flag 2 on the one that ends the stream,
//   - error codes and their HTTP statuses, Connect-Timeout-Ms,
//     Connect-Protocol-Version, gzip-compressed requests,
//   - field names in camelCase or snake_case, 64-bit integers as strings, bytes
//     in any base64 alphabet, unknown fields ignored.
//
// Another codec is answered with 415, and messages are bounded by a constant on
// both sides. Messages are plain Go structs with JSON tags in camelCase and
// omitempty on every field.
package connectjson

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Code is a Connect error code, spelled as on the wire.
type Code string

// The codes of the Connect protocol.
const (
	Canceled           Code = "canceled"
	Unknown            Code = "unknown"
	InvalidArgument    Code = "invalid_argument"
	DeadlineExceeded   Code = "deadline_exceeded"
	NotFound           Code = "not_found"
	AlreadyExists      Code = "already_exists"
	PermissionDenied   Code = "permission_denied"
	ResourceExhausted  Code = "resource_exhausted"
	FailedPrecondition Code = "failed_precondition"
	Aborted            Code = "aborted"
	OutOfRange         Code = "out_of_range"
	Unimplemented      Code = "unimplemented"
	Internal           Code = "internal"
	Unavailable        Code = "unavailable"
	DataLoss           Code = "data_loss"
	Unauthenticated    Code = "unauthenticated"
)

// statusClientClosed is the status for canceled calls; net/http has no name
// for it.
const statusClientClosed = 499

// HTTPStatus returns the status a unary response with this code carries.
func (c Code) HTTPStatus() int {
	switch c {
	case Canceled:
		return statusClientClosed
	case InvalidArgument, FailedPrecondition, OutOfRange:
		return http.StatusBadRequest
	case DeadlineExceeded:
		return http.StatusGatewayTimeout
	case NotFound:
		return http.StatusNotFound
	case AlreadyExists, Aborted:
		return http.StatusConflict
	case PermissionDenied:
		return http.StatusForbidden
	case ResourceExhausted:
		return http.StatusTooManyRequests
	case Unimplemented:
		return http.StatusNotImplemented
	case Unavailable:
		return http.StatusServiceUnavailable
	case Unauthenticated:
		return http.StatusUnauthorized
	default:
		return http.StatusInternalServerError
	}
}

// codeOfStatus infers a code from a response that is not a Connect error, such
// as one made by a proxy on the way.
func codeOfStatus(status int) Code {
	switch status {
	case http.StatusBadRequest:
		return Internal
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return PermissionDenied
	case http.StatusNotFound:
		return Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Unavailable
	default:
		return Unknown
	}
}

// Error is a failed call. Its message crosses the wire.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message,omitempty"`
}

// Error returns code and message.
func (e *Error) Error() string {
	return string(e.Code) + ": " + e.Message
}

// Errorf makes an [Error] from a code and a message that the caller may read.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first [Error] in err's chain. A context's
// error has the code one expects; any other error is [Unknown], nil has none.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return asError(err).Code
}

// asError turns any error into one that can be sent.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: DeadlineExceeded, Message: context.DeadlineExceeded.Error()}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Canceled, Message: context.Canceled.Error()}
	default:
		return &Error{Code: Unknown, Message: err.Error()}
	}
}
