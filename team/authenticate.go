package team

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	trustFor  = 10 * time.Second // how long a key is not looked up again
	noteEvery = time.Minute      // how exact the last use of a key is
	noteWait  = 10 * time.Second
	maxPlain  = 256 // bytes of a key that are looked at; ours have 44
)

// A visit is a key that was let in.
type visit struct {
	actor soulbox.Actor
	until time.Time
	noted *atomic.Int64 // when its use was last noted, in Unix seconds; outlives the visit
}

// Authenticate returns who uses a key. A key that nobody has is
// Unauthenticated, and so is text that is no key at all: both take the same
// way and get the same answer.
func (d *Directory) Authenticate(ctx context.Context, plain string) (soulbox.Actor, error) {
	h := hashOf(plain[:min(len(plain), maxPlain)])

	d.mu.RLock()
	v, purges := d.known[h], d.purges
	d.mu.RUnlock()

	if v == nil || time.Now().After(v.until) {
		k, err := d.store.KeyByHash(ctx, h.String())
		if soulbox.KindOf(err) == soulbox.NotFound {
			if v != nil {
				d.forget(v.actor.Key)
			}
			return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "the API key is missing or not valid")
		}
		if err != nil {
			return soulbox.Actor{}, fmt.Errorf("authenticate: %w", err)
		}
		v = d.admit(h, k, v, purges)
	}
	d.note(ctx, v)
	return v.actor, nil
}

// admit remembers that a key was found, unless a key was revoked since we
// began to look: it may have been this one.
func (d *Directory) admit(h hash, k *soulbox.Key, before *visit, purges uint64) *visit {
	v := &visit{
		actor: soulbox.Actor{Team: k.Team, Key: k.ID},
		until: time.Now().Add(trustFor),
	}
	if before != nil {
		v.noted = before.noted
	} else {
		v.noted = new(atomic.Int64)
		v.noted.Store(k.LastUsed.Unix())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.purges == purges {
		d.known[h] = v
	}
	return v
}

// forget drops a key from memory.
func (d *Directory) forget(id soulbox.KeyID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.purges++
	maps.DeleteFunc(d.known, func(_ hash, v *visit) bool { return v.actor.Key == id })
}

// note writes down, behind, that a key was used.
func (d *Directory) note(ctx context.Context, v *visit) {
	last, at := v.noted.Load(), time.Now()
	if at.Unix()-last < int64(noteEvery/time.Second) || !v.noted.CompareAndSwap(last, at.Unix()) {
		return
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return
	}
	d.notes.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWait)
		defer cancel()
		if err := d.store.TouchKey(ctx, v.actor.Key, at); err != nil {
			d.log.WarnContext(ctx, "use of a key was not noted", "key", v.actor.Key, "err", err)
		}
	})
}
