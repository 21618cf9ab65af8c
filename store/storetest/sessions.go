package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// sessionID returns the same id for the same number.
func sessionID(n int) soulbox.SessionID { return soulbox.SessionID(fmt.Sprintf("e%020d", n)) }

// session returns one that was made n minutes after epoch.
func session(team *soulbox.Team, n int) *soulbox.Session {
	return &soulbox.Session{
		ID: sessionID(n), Team: team.ID, CreatedAt: at(n), ExpiresAt: at(n + 60), BeatAt: at(n),
		Heartbeat: soulbox.Heartbeat{Interval: 30 * time.Second, Timeout: 90 * time.Second, Then: soulbox.AbsencePauses},
		Metadata:  map[string]string{"user": "7"},
		Variables: map[string]json.RawMessage{"step": json.RawMessage(`3`), "雪": json.RawMessage(`{"a":[1,"$1 ?"]}`)},
		Watch:     []string{"/home/user"},
	}
}

func wantSession(t *testing.T, s *store.Store, want *soulbox.Session) {
	t.Helper()
	got, err := s.Session(t.Context(), want.ID)
	must(t, err)
	wantSame(t, "Session "+string(want.ID), got, want)
}

func testSessionRoundTrip(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	full := session(team, 1)
	must(t, s.InsertSession(ctx, full))
	wantSession(t, s, full)
	wantKind(t, "InsertSession again", s.InsertSession(ctx, full), soulbox.Conflict)
	bare := &soulbox.Session{ID: sessionID(2), Team: team.ID, CreatedAt: at(2), Variables: map[string]json.RawMessage{}}
	must(t, s.InsertSession(ctx, bare))
	wantSession(t, s, bare)
	_, err := s.Session(ctx, sessionID(3))
	wantKind(t, "Session that is not there", err, soulbox.NotFound)

	full.ExpiresAt, full.BeatAt = at(500), at(3)
	full.Heartbeat = soulbox.Heartbeat{Interval: time.Second, Timeout: time.Minute, Then: soulbox.AbsenceKills}
	full.Metadata, full.Watch = nil, nil
	full.Variables = map[string]json.RawMessage{}
	must(t, s.UpdateSession(ctx, full))
	wantSession(t, s, full)
	full.BeatAt = at(4)
	must(t, s.BeatSession(ctx, full.ID, at(4)))
	wantSession(t, s, full)
	wantSession(t, s, bare)
}

func testSessionMembers(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	one, two := session(team, 1), session(team, 2)
	must(t, s.InsertSession(ctx, one))
	must(t, s.InsertSession(ctx, two))
	must(t, s.JoinSession(ctx, one.ID, "ia", at(1)))
	must(t, s.JoinSession(ctx, one.ID, "ib", at(2)))
	wantKind(t, "JoinSession twice", s.JoinSession(ctx, one.ID, "ia", at(3)), soulbox.Conflict)
	wantKind(t, "JoinSession of one in another session", s.JoinSession(ctx, two.ID, "ia", at(3)), soulbox.Conflict)
	must(t, s.LeaveSession(ctx, one.ID, "ia", at(4)))
	must(t, s.LeaveSession(ctx, one.ID, "ia", at(5)))
	must(t, s.LeaveSession(ctx, one.ID, "inobody", at(5)))
	must(t, s.JoinSession(ctx, two.ID, "ia", at(6)))
	must(t, s.LeaveSession(ctx, two.ID, "ia", at(7)))
	must(t, s.JoinSession(ctx, one.ID, "ia", at(8)))
	one.Members = []soulbox.SessionMember{
		{Sandbox: "ia", JoinedAt: at(1), LeftAt: at(4)}, {Sandbox: "ib", JoinedAt: at(2)}, {Sandbox: "ia", JoinedAt: at(8)},
	}
	two.Members = []soulbox.SessionMember{{Sandbox: "ia", JoinedAt: at(6), LeftAt: at(7)}}
	wantSession(t, s, one)
	wantSession(t, s, two)
	open, err := s.OpenSessions(ctx)
	must(t, err)
	wantSame(t, "OpenSessions", open, []*soulbox.Session{one, two})

	end := soulbox.End{At: at(9), By: soulbox.ByClient, Reason: "done"}
	must(t, s.EndSession(ctx, one.ID, end))
	one.End = &end
	one.Members[1].LeftAt, one.Members[2].LeftAt = at(9), at(9)
	wantSession(t, s, one)
	wantKind(t, "EndSession again", s.EndSession(ctx, one.ID, end), soulbox.Conflict)
	wantKind(t, "EndSession of none", s.EndSession(ctx, sessionID(9), end), soulbox.Conflict)
	wantKind(t, "UpdateSession of an ended one", s.UpdateSession(ctx, one), soulbox.Conflict)
	wantKind(t, "BeatSession of an ended one", s.BeatSession(ctx, one.ID, at(10)), soulbox.Conflict)
	must(t, s.JoinSession(ctx, two.ID, "ia", at(10))) // it is free again
}

// testSessionMembersOnce lets many sessions take in one sandbox.
func testSessionMembersOnce(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	for n := range 10 {
		must(t, s.InsertSession(t.Context(), session(team, n)))
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for n := range 10 {
		wg.Go(func() {
			if err := s.JoinSession(t.Context(), sessionID(n), "ia", at(n)); err == nil {
				won.Add(1)
			} else {
				wantKind(t, "JoinSession of a loser", err, soulbox.Conflict)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("the sandbox is in %d sessions, want 1", n)
	}
}

func testSessionLists(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	var open, all []soulbox.SessionID
	for n := range 12 {
		v := session(one, n)
		v.CreatedAt = at(n / 4) // several at the same moment
		must(t, s.InsertSession(ctx, v))
		all = append(all, v.ID)
		if n%3 == 0 {
			must(t, s.EndSession(ctx, v.ID, soulbox.End{At: at(100 - n), By: soulbox.ByTimeout}))
			continue
		}
		open = append(open, v.ID)
	}
	must(t, s.InsertSession(ctx, session(two, 50)))
	slices.Reverse(open)
	slices.Reverse(all)
	for limit := range 14 {
		for want, f := range map[*[]soulbox.SessionID]soulbox.SessionFilter{
			&open: {Team: one.ID, Limit: limit},
			&all:  {Team: one.ID, Limit: limit, Ended: true},
		} {
			var got []soulbox.SessionID
			for range 20 {
				page, err := s.Sessions(ctx, f)
				must(t, err)
				for _, v := range page.Sessions {
					got = append(got, v.ID)
				}
				if page.Next == "" {
					break
				}
				f.Cursor = page.Next
			}
			wantSame(t, fmt.Sprintf("pages of %d, ended %v", limit, f.Ended), got, *want)
		}
	}
	_, err := s.Sessions(ctx, soulbox.SessionFilter{Team: one.ID, Cursor: "MTIzOmlhYmM"}) // a sandbox's
	wantKind(t, "Sessions with a bad cursor", err, soulbox.Invalid)

	old, err := s.SessionsEndedBefore(ctx, at(98), 2) // 9 ended at 91, 6 at 94, 3 at 97, 0 at 100
	must(t, err)
	wantSame(t, "SessionsEndedBefore", old, []soulbox.SessionID{sessionID(9), sessionID(6)})
	must(t, s.JoinSession(ctx, sessionID(1), "ia", at(1)))
	must(t, s.InsertSessionSave(ctx, &soulbox.SessionSave{ID: "k1", Session: sessionID(1), Name: "a"}))
	must(t, s.DeleteSession(ctx, sessionID(1)))
	must(t, s.DeleteSession(ctx, sessionID(1)))
	_, err = s.Session(ctx, sessionID(1))
	wantKind(t, "Session that was deleted", err, soulbox.NotFound)
	must(t, s.JoinSession(ctx, sessionID(2), "ia", at(1)))
}

func testSessionSaves(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	must(t, s.InsertSession(ctx, session(team, 1)))
	must(t, s.InsertSession(ctx, session(team, 2)))
	save := func(n int, of soulbox.SessionID, name string) *soulbox.SessionSave {
		return &soulbox.SessionSave{
			ID: soulbox.SessionCheckpointID(fmt.Sprintf("k%d", n)), Session: of, Name: name, CreatedAt: at(n),
			Variables: map[string]json.RawMessage{"n": json.RawMessage(`1`)},
			Members:   []soulbox.SavedMember{{Sandbox: "ia"}, {Sandbox: "ib"}},
		}
	}
	a, b := save(1, sessionID(1), "monday"), save(2, sessionID(1), "tuesday")
	must(t, s.InsertSessionSave(ctx, a))
	must(t, s.InsertSessionSave(ctx, b))
	must(t, s.InsertSessionSave(ctx, save(3, sessionID(2), "monday")))
	wantKind(t, "InsertSessionSave with a name that is taken", s.InsertSessionSave(ctx, save(4, sessionID(1), "monday")), soulbox.Conflict)
	a.Ready, a.Members = true, []soulbox.SavedMember{{Sandbox: "ia", Snapshot: "s1"}, {Sandbox: "ib", Snapshot: "s2"}}
	must(t, s.FinishSessionSave(ctx, a))
	got, err := s.SessionSaves(ctx, sessionID(1))
	must(t, err)
	wantSame(t, "SessionSaves", got, []*soulbox.SessionSave{a, b})
	got, err = s.UnreadySessionSaves(ctx)
	must(t, err)
	wantSame(t, "UnreadySessionSaves", got, []*soulbox.SessionSave{b, save(3, sessionID(2), "monday")})
	must(t, s.DeleteSessionSave(ctx, b.ID))
	must(t, s.DeleteSessionSave(ctx, b.ID))
	wantKind(t, "FinishSessionSave of one that is gone", s.FinishSessionSave(ctx, b), soulbox.NotFound)
	must(t, s.InsertSessionSave(ctx, save(5, sessionID(1), "tuesday")))
}
