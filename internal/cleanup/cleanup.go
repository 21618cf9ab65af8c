// Package cleanup undoes the steps of something that was built half way.
//
//	var undo cleanup.Stack
//	defer func() { err = errors.Join(err, undo.Run()) }()
//	…
//	undo.Push(ns.Close)
//	…
//	undo.Keep()
//	return nil
package cleanup

import (
	"errors"
	"slices"
)

// A Stack holds what undoes each step taken so far. The zero value is empty
// and ready. Not safe for concurrent use.
type Stack struct {
	undo []func() error
}

// Push remembers how to undo the step that has just succeeded.
func (s *Stack) Push(undo func() error) {
	s.undo = append(s.undo, undo)
}

// Run undoes every step, the latest first, and empties the stack. A step that
// cannot be undone does not stop the others; their errors come back joined.
func (s *Stack) Run() error {
	var errs []error
	for _, undo := range slices.Backward(s.undo) {
		errs = append(errs, undo())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// Keep forgets every step: what was built stays, and a later Run does nothing.
func (s *Stack) Keep() {
	s.undo = nil
}
