package soulbox

import (
	"errors"
	"fmt"
)

// Kind says what the caller can do about an error. The HTTP status and the
// CLI's exit status are tables over it.
type Kind uint8

// The kinds of error.
const (
	Internal        Kind = iota // a bug or a broken machine; details stay in the log
	Invalid                     // the request is wrong; the sentence says what would be right
	Unauthenticated             // nobody knows who asks
	Forbidden                   // we know who asks, and may not
	NotFound                    // it does not exist, or is somebody else's
	Conflict                    // it exists, but its state forbids this now
	TooLarge                    // the request is bigger than we accept
	Exhausted                   // a quota or rate is used up; later may work
	Unavailable                 // this machine cannot now; later, or another one, may
)

// An Error carries a sentence that is safe to show to whoever made the
// request, and a cause that only the log may see.
type Error struct {
	Kind Kind
	Msg  string
	err  error
}

// Errorf returns an [*Error] of kind k. A %w verb keeps the cause in the
// chain for [errors.Is] and the log; its text becomes part of the sentence, so
// wrap only what a customer may read. Use [Hide] for the rest.
func Errorf(k Kind, format string, args ...any) error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Kind: k, Msg: wrapped.Error(), err: errors.Unwrap(wrapped)}
}

// Hide returns an [*Error] of kind k that shows msg to the customer and keeps
// err for the log.
func Hide(k Kind, err error, msg string) error {
	return &Error{Kind: k, Msg: msg, err: err}
}

// Error returns the sentence for the customer.
func (e *Error) Error() string { return e.Msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// KindOf returns the kind of the first [*Error] in err's chain, or [Internal].
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// MessageOf returns the sentence of the first [*Error] in err's chain that is
// not [Internal]; everything else shows as "internal error".
func MessageOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Msg
	}
	return "internal error"
}
