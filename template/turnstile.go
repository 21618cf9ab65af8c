package template

import (
	"sync"

	"github.com/soulbox/soulbox"
)

// A turnstile bounds how much of something each team does at the same time.
type turnstile struct {
	most  int
	doing string // such as "uploading"
	what  string // such as "archives"

	mu  sync.Mutex
	now map[soulbox.TeamID]int // +checklocks:mu
}

func newTurnstile(most int, doing, what string) *turnstile {
	return &turnstile{most: most, doing: doing, what: what, now: map[soulbox.TeamID]int{}}
}

// enter lets a team in until it calls leave, unless it is there too often.
func (t *turnstile) enter(team soulbox.TeamID) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now[team] >= t.most {
		return nil, soulbox.Errorf(soulbox.Exhausted, "your team is %s %d %s, and may not more at the same time", t.doing, t.most, t.what)
	}
	t.now[team]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.now[team]--; t.now[team] == 0 {
			delete(t.now, team)
		}
	}, nil
}
