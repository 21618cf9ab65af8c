package soulbox_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestErrorKinds(t *testing.T) {
	notFound := soulbox.Errorf(soulbox.NotFound, "sandbox %q is not here", "i1")
	for _, test := range []struct {
		name string
		err  error
		kind soulbox.Kind
		msg  string
	}{
		{"nil", nil, soulbox.Internal, "internal error"},
		{"foreign", io.ErrUnexpectedEOF, soulbox.Internal, "internal error"},
		{"ours", notFound, soulbox.NotFound, `sandbox "i1" is not here`},
		{"wrapped", fmt.Errorf("open /secret/path: %w", notFound), soulbox.NotFound, `sandbox "i1" is not here`},
		{"joined", errors.Join(io.EOF, notFound), soulbox.NotFound, `sandbox "i1" is not here`},
		{"internal of ours", soulbox.Errorf(soulbox.Internal, "disk sda1 died"), soulbox.Internal, "internal error"},
		{"hidden", soulbox.Hide(soulbox.Unavailable, io.EOF, "try later"), soulbox.Unavailable, "try later"},
		{"outermost wins", soulbox.Errorf(soulbox.Conflict, "no: %w", notFound), soulbox.Conflict, `no: sandbox "i1" is not here`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := soulbox.KindOf(test.err); got != test.kind {
				t.Errorf("KindOf(%v) = %v, want %v", test.err, got, test.kind)
			}
			if got := soulbox.MessageOf(test.err); got != test.msg {
				t.Errorf("MessageOf(%v) = %q, want %q", test.err, got, test.msg)
			}
		})
	}
}

func TestErrorKeepsCause(t *testing.T) {
	for name, err := range map[string]error{
		"Errorf": soulbox.Errorf(soulbox.Invalid, "read: %w", io.ErrUnexpectedEOF),
		"Hide":   soulbox.Hide(soulbox.Invalid, io.ErrUnexpectedEOF, "read"),
	} {
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s loses its cause: %v", name, err)
		}
	}
	if got, want := soulbox.Hide(soulbox.Invalid, io.ErrUnexpectedEOF, "read").Error(), "read"; got != want {
		t.Errorf("Hide shows %q, want %q", got, want)
	}
}
