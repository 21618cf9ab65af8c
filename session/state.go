package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	statesKept = 32 // of each session, so that clients can learn what changed since
	stateDir   = "states"
	tokenLen   = 20
)

// State returns what goes on in an open session now, under a token. With since,
// a token that was given before, it also returns what differs between then and
// now; those of the last 32 different states are remembered.
func (r *Registry) State(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, since string) (*soulbox.SessionState, *soulbox.StateDelta, error) {
	if err := r.begin(); err != nil {
		return nil, nil, err
	}
	defer r.wg.Done()
	if since != "" && !validToken(since) {
		return nil, nil, soulbox.Errorf(soulbox.Invalid, "%.100q is not the token of a state", since)
	}
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, nil, err
	}
	head, err := l.log.Head()
	if err != nil {
		return nil, nil, err
	}
	s := l.session()
	state := &soulbox.SessionState{LastEvent: head, At: now(), Variables: s.Variables}
	ids := s.Present()
	state.Members = make([]soulbox.MemberState, len(ids))
	together(ids, func(sandbox soulbox.SandboxID) error {
		state.Members[slices.Index(ids, sandbox)] = r.observe(ctx, team, sandbox)
		return nil
	})
	sum := summarise(state)
	b, err := json.Marshal(sum)
	if err != nil {
		return nil, nil, fmt.Errorf("state of session %s: %w", id, err)
	}
	hash := sha256.Sum256(b)
	state.Token = hex.EncodeToString(hash[:tokenLen/2])
	if err := r.keepState(id, state.Token, b); err != nil {
		return nil, nil, fmt.Errorf("state of session %s: %w", id, err)
	}
	if since == "" {
		return state, nil, nil
	}
	return state, r.deltaTo(id, since, sum), nil
}

func validToken(s string) bool {
	return len(s) == tokenLen && !strings.ContainsFunc(s, func(c rune) bool { return !strings.ContainsRune("0123456789abcdef", c) })
}

func (r *Registry) observe(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) soulbox.MemberState {
	sb, err := r.opts.Fleet.Get(ctx, team, id)
	if err != nil {
		return soulbox.MemberState{Sandbox: id, Reason: soulbox.MessageOf(err)}
	}
	m := soulbox.MemberState{Sandbox: id, State: sb.State}
	if sb.State != soulbox.Running {
		m.Reason = "it does not run"
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	g, err := r.opts.Guests.Observe(ctx, id)
	if err != nil {
		m.Reason = "its agent did not answer: " + soulbox.MessageOf(err)
		return m
	}
	m.Guest = &g
	return m
}

// keepState remembers a state. It is not synced: a client whose token is lost
// gets all of the state instead of the difference.
func (r *Registry) keepState(id soulbox.SessionID, token string, b []byte) error {
	dir := filepath.Join(r.dir(id), stateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".state-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(b)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, token))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= statesKept {
		return err
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{} // it is gone already
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(a).Compare(age(b)) })
	for _, e := range entries[:len(entries)-statesKept] {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// deltaTo compares a state that was given out with the one now. One that cannot
// be read is not known.
func (r *Registry) deltaTo(id soulbox.SessionID, token string, to summary) *soulbox.StateDelta {
	b, err := os.ReadFile(filepath.Join(r.dir(id), stateDir, token))
	var from summary
	if err != nil || json.Unmarshal(b, &from) != nil {
		return &soulbox.StateDelta{}
	}
	return delta(from, to)
}
