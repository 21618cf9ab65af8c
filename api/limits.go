package api

import (
	"math"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/soulbox/soulbox"
)

const (
	defaultBurst = 1000 // enough for a test suite that starts everything at once

	// maxLimiters bounds the memory of limits. Only keys that are known get
	// here, so that it takes many keys, not many requests, to reach it.
	maxLimiters = 10_000
)

// limits bound how often each key may ask.
type limits struct {
	rate  rate.Limit
	burst int

	mu sync.Mutex
	// +checklocks:mu
	byKey map[soulbox.KeyID]*rate.Limiter
}

func newLimits(r rate.Limit, burst int) *limits {
	if burst < 1 {
		burst = defaultBurst
	}
	return &limits{rate: r, burst: burst, byKey: map[soulbox.KeyID]*rate.Limiter{}}
}

// take takes one request from what key has left, or returns a [*waitError].
func (l *limits) take(key soulbox.KeyID) error {
	if l.rate <= 0 {
		return nil
	}
	res := l.of(key).Reserve()
	wait := res.Delay()
	if wait <= 0 {
		return nil
	}
	res.Cancel() // who is refused does not pay
	return &waitError{wait: wait, err: soulbox.Errorf(soulbox.Exhausted, "this key asks too often: at most %d requests at once and %g a second", l.burst, float64(l.rate))}
}

// of returns the limiter of key.
func (l *limits) of(key soulbox.KeyID) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	lim, ok := l.byKey[key]
	if !ok {
		if len(l.byKey) >= maxLimiters {
			clear(l.byKey) // everybody starts afresh; better than growing
		}
		lim = rate.NewLimiter(l.rate, l.burst)
		l.byKey[key] = lim
	}
	return lim
}

// waitError is an error that goes away by waiting.
type waitError struct {
	wait time.Duration
	err  error
}

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

// seconds returns the value of Retry-After. E2B's clients read whole seconds
// and ignore dates.
func (e *waitError) seconds() string {
	return strconv.Itoa(max(1, int(math.Ceil(e.wait.Seconds()))))
}
