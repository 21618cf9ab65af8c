package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// How often a server is asked again by what follows something.
const (
	metricsPeriod = 5 * time.Second // that of the server's own measurements
	logsPeriod    = time.Second

	logsPage = 1000 // entries in one answer
)

// MetricsOptions select measurements of a sandbox. The zero value selects all
// the server still has.
type MetricsOptions struct {
	Since, Until time.Time // whole seconds; zero has no bound
	// Follow waits for more measurements until the sandbox ends.
	Follow bool
}

// Metrics returns measurements of a sandbox, the oldest first. The first error
// ends the loop.
func (s *Sandboxes) Metrics(ctx context.Context, id string, o MetricsOptions) iter.Seq2[soulbox.Usage, error] {
	return func(yield func(soulbox.Usage, error) bool) {
		path, err := sandboxPath("/sandboxes/", id, "/metrics")
		if err != nil {
			yield(soulbox.Usage{}, err)
			return
		}
		var last time.Time
		follow(ctx, o.Follow, metricsPeriod, func() (bool, error) {
			query := url.Values{}
			if !o.Since.IsZero() {
				query.Set("start", unix(o.Since))
			}
			if !o.Until.IsZero() {
				query.Set("end", unix(o.Until))
			}
			var page []usageWire
			if err := s.c.call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
				return false, err
			}
			for _, w := range page {
				u := w.usage()
				if !u.At.After(last) {
					continue
				}
				last = u.At
				if !yield(u, nil) {
					return false, nil
				}
			}
			if !last.IsZero() {
				o.Since = last
			}
			return s.lives(ctx, id)
		}, func(err error) { yield(soulbox.Usage{}, err) })
	}
}

// LogsOptions select lines of a sandbox's log. The zero value selects all the
// server still has.
type LogsOptions struct {
	Since time.Time // milliseconds; zero has no bound
	// Level is the least important level that is wanted; empty is all.
	Level string
	// Search selects lines that contain it.
	Search string
	// Follow waits for more lines until the sandbox ends.
	Follow bool
}

// Logs returns lines of a sandbox's log, the oldest first. The first error ends
// the loop.
func (s *Sandboxes) Logs(ctx context.Context, id string, o LogsOptions) iter.Seq2[soulbox.LogEntry, error] {
	return func(yield func(soulbox.LogEntry, error) bool) {
		path, err := sandboxPath("/v2/sandboxes/", id, "/logs")
		if err != nil {
			yield(soulbox.LogEntry{}, err)
			return
		}
		query := url.Values{"direction": {"forward"}, "limit": {strconv.Itoa(logsPage)}}
		if o.Level != "" {
			query.Set("level", o.Level)
		}
		if o.Search != "" {
			query.Set("search", o.Search)
		}
		reader := logReader{cursor: o.Since.UnixMilli()}
		if o.Since.IsZero() {
			reader.cursor = 0
		}
		follow(ctx, o.Follow, logsPeriod, func() (bool, error) {
			// Asked before the lines, so that the last of them are not missed.
			lives, livesErr := false, error(nil)
			if o.Follow {
				lives, livesErr = s.lives(ctx, id)
			}
			for {
				query.Set("cursor", strconv.FormatInt(reader.cursor, 10))
				var page logsWire
				if err := s.c.call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
					return false, err
				}
				for _, e := range reader.fresh(page.Logs) {
					if !yield(soulbox.LogEntry{At: e.Timestamp, Level: e.Level, Message: e.Message, Fields: e.Fields}, nil) {
						return false, nil
					}
				}
				if len(page.Logs) < logsPage {
					return lives, livesErr
				}
			}
		}, func(err error) { yield(soulbox.LogEntry{}, err) })
	}
}

// follow calls step until it says that there will be no more, or once.
func follow(ctx context.Context, again bool, period time.Duration, step func() (bool, error), fail func(error)) {
	for {
		more, err := step()
		if err != nil {
			fail(err)
			return
		}
		if !again || !more {
			return
		}
		select {
		case <-ctx.Done():
			fail(context.Cause(ctx))
			return
		case <-time.After(period):
		}
	}
}

// lives reports whether a sandbox has not ended.
func (s *Sandboxes) lives(ctx context.Context, id string) (bool, error) {
	info, err := s.Get(ctx, id)
	switch {
	case err == nil:
		return info.End == nil, nil
	case soulbox.KindOf(err) == soulbox.NotFound:
		return false, nil // ended so long ago that the server has forgotten it
	default:
		return false, err
	}
}

// logReader turns pages that overlap in the millisecond of their cursor into a
// sequence without repetition.
type logReader struct {
	cursor int64 // milliseconds
	seen   int   // how many entries of that millisecond were given out
}

func (r *logReader) fresh(page []logWire) []logWire {
	skip, i := r.seen, 0
	for ; i < len(page) && skip > 0 && page[i].Timestamp.UnixMilli() == r.cursor; i++ {
		skip--
	}
	fresh := page[i:]
	for _, e := range fresh {
		if ms := e.Timestamp.UnixMilli(); ms > r.cursor {
			r.cursor, r.seen = ms, 0
		}
		r.seen++
	}
	if len(fresh) == 0 && len(page) >= logsPage {
		// One millisecond fills a page, and the protocol has no finer cursor.
		r.cursor, r.seen = r.cursor+1, 0
	}
	return fresh
}

type usageWire struct {
	TimestampUnix int64     `json:"timestampUnix"`
	Timestamp     time.Time `json:"timestamp"`
	CPUUsedPct    float64   `json:"cpuUsedPct"` // of all cores together
	CPUCount      int       `json:"cpuCount"`
	MemUsed       int64     `json:"memUsed"`
	MemTotal      int64     `json:"memTotal"`
	MemCache      int64     `json:"memCache"`
	DiskUsed      int64     `json:"diskUsed"`
	DiskTotal     int64     `json:"diskTotal"`
}

func (w usageWire) usage() soulbox.Usage {
	at := w.Timestamp
	if at.IsZero() {
		at = time.Unix(w.TimestampUnix, 0)
	}
	return soulbox.Usage{
		At:         at,
		CPUPercent: w.CPUUsedPct * float64(max(1, w.CPUCount)),
		CPUCount:   w.CPUCount,
		MemUsed:    soulbox.Bytes(w.MemUsed),
		MemTotal:   soulbox.Bytes(w.MemTotal),
		MemCache:   soulbox.Bytes(w.MemCache),
		DiskUsed:   soulbox.Bytes(w.DiskUsed),
		DiskTotal:  soulbox.Bytes(w.DiskTotal),
	}
}

type logsWire struct {
	Logs []logWire `json:"logs"`
}

type logWire struct {
	Timestamp time.Time         `json:"timestamp"`
	Level     string            `json:"level"`
	Message   string            `json:"message"`
	Fields    map[string]string `json:"fields"`
}
