package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/soulbox/soulbox"
)

// Exit codes of our own. `run`, `exec` and `shell` end with the program's.
const (
	exitError   = 1
	exitUsage   = 2
	exitTimeout = 124 // as timeout(1)
	exitSignal  = 128 // and the signal's number, as shells do
)

// exitCodes is the exit code of each kind of error; the others are exitError.
var exitCodes = map[soulbox.Kind]int{
	soulbox.Invalid: exitUsage,
}

// hints says what to do about a kind of error when nobody knows better.
var hints = map[soulbox.Kind]string{
	soulbox.Unauthenticated: "`soulbox env` prints the key of the server on this machine",
	soulbox.Exhausted:       "`soulbox sandbox ls` shows what is in use",
	soulbox.Internal:        "the server's log may say more",
}

// codeError ends the program with a code, and has nothing to say.
type codeError int

func (e codeError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// hinted is an error with a hint of its own.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, text string) error { return hinted{err, text} }

// report tells the user about err and returns the exit code.
func (c *cli) report(err error) int {
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[codeError](err); ok {
		return int(status)
	}
	if by, ok := errors.AsType[interrupted](err); ok {
		return exitSignal + int(by.signal)
	}
	if errors.Is(err, syscall.EPIPE) {
		return exitSignal + int(syscall.SIGPIPE) // whoever read our output knows why
	}
	_, _ = fmt.Fprintf(c.err, "soulbox: %s\n", clean(err.Error())) // there is nowhere else to say it
	if h := hintFor(err); h != "" {
		_, _ = fmt.Fprintf(c.err, "  %s\n", h) // as above
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimeout
	}
	if !c.started {
		return exitUsage
	}
	if code, ok := exitCodes[soulbox.KindOf(err)]; ok {
		return code
	}
	return exitError
}

func hintFor(err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	e, ours := errors.AsType[*soulbox.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is it running? Start it with `soulbox serve`"
	case ours:
		return hints[e.Kind]
	default:
		return ""
	}
}
