package fleet_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

func TestResumeOffersCheckpoint(t *testing.T) {
	h := open(t)
	sb := h.create()
	h.checkpoint(sb.ID, "torn")
	whole := h.checkpoint(sb.ID, "whole")
	torn := h.checkpoint(sb.ID, "torn-too")
	h.pause(sb.ID, true)
	asleep := h.record(sb.ID).Pause.Snapshot
	broken := soulbox.Errorf(soulbox.Unavailable, "the snapshot is damaged")
	h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error { return broken }
	resume := func() string {
		t.Helper()
		_, _, err := h.Connect(t.Context(), "us", sb.ID, time.Minute, false)
		wantKind(t, "Connect", err, soulbox.Unavailable)
		h.wantState(sb.ID, soulbox.Paused)
		return soulbox.MessageOf(err)
	}
	if msg := resume(); strings.Contains(msg, "checkpoint") {
		t.Errorf("%q, though what it is paused at is whole", msg)
	}
	h.node.onVerify = func(id soulbox.SnapshotID) error {
		if id == asleep || id == torn.ID {
			return broken
		}
		return nil
	}
	if msg := resume(); !strings.Contains(msg, "damaged") || !strings.Contains(msg, string(whole.ID)) {
		t.Errorf("%q, want that it is damaged and that %s is whole", msg, whole.ID)
	}
	h.node.onVerify = func(soulbox.SnapshotID) error { return broken }
	if msg := resume(); strings.Contains(msg, "checkpoint") {
		t.Errorf("%q, though no checkpoint is whole", msg)
	}
}
