package soulbox

import "time"

// A Question is what somebody asks of the code interpreter in a sandbox: about
// notebooks, packages, or data to be analyzed.
type Question struct {
	Verb   string
	Path   string        // with its query, escaped
	Body   []byte        // a JSON object; nil: none
	Status int           // of a good answer
	Within time.Duration // how long an answer may take, or how long a stream may be silent

	// Types are the media types of which a good answer that is a file may be;
	// the first stands for all others. Without any it is a JSON object.
	Types []string
	// Last are the types of the lines that end a good stream.
	Last []string
}

// A Reply is a good answer to a [Question].
type Reply struct {
	Type string // its media type; empty: there is no body
	Body []byte // valid until whoever was given the reply returns
}

// An OutdatedError says that what was to be changed has been changed by somebody
// else in the meantime. It is a [Conflict].
type OutdatedError struct {
	Revision string // the newer one
	Err      error  // the sentence
}

// Error returns the sentence.
func (e *OutdatedError) Error() string { return e.Err.Error() }

// Unwrap returns the error that has the kind.
func (e *OutdatedError) Unwrap() error { return e.Err }
