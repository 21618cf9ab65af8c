// Package api is the door of the control plane: it asks who you are, whether
// you may, and how often you have asked; it turns errors into answers and
// writes the request log. What is behind the door is told by tables of
// [Route]s: api/e2b has those that E2B's clients know, api/native those that
// E2B has no words for. A row without a permission is refused at start.
//
// # Answers
//
// Bodies are JSON. An error is {"code":…,"message":…} where code repeats the
// HTTP status, because some clients read the one and some the other. Status is
// a table over [soulbox.Kind]; an error without a kind shows as "internal
// error" with the id of the request, under which the log has the rest. The id
// is also in the header X-Request-Id of every answer.
//
// # Limits
//
// A JSON body has at most 1 MiB, unless its route says otherwise, and half a minute to arrive; an upload may be
// large but not stand still. Headers and idle connections are bounded by the
// server that [NewServer] configures.
package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/soulbox/soulbox"
)

// Options are what an [API] can do without.
type Options struct {
	Metrics prometheus.Registerer // gets the API's measurements; nil: nothing is measured
	Rate    rate.Limit            // requests a second of one key, in the long run; 0: no limit
	Burst   int                   // requests of one key at once; below 1 with a Rate: 1000
}

// An API answers the requests of a route table. It is safe for concurrent use.
type API struct {
	log     *slog.Logger
	auth    authenticator
	mux     *http.ServeMux
	measure *measure
	limits  *limits
}

// New returns the API that answers routes to whoever auth knows. An error
// means that the table is wrong: a row lacks a part, names an unknown
// permission, or repeats another.
func New(log *slog.Logger, auth authenticator, routes []Route, o Options) (*API, error) {
	measure, err := newMeasure(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the API: %w", err)
	}
	a := &API{
		log:     log,
		auth:    auth,
		mux:     http.NewServeMux(),
		measure: measure,
		limits:  newLimits(o.Rate, o.Burst),
	}
	for _, r := range routes {
		if err := r.check(); err != nil {
			return nil, err
		}
		if err := a.add(r); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// add puts one row into the table that requests are looked up in.
func (a *API) add(r Route) (err error) {
	defer func() {
		if v := recover(); v != nil { // how ServeMux says that two patterns overlap
			err = fmt.Errorf("route %s: %v", r, v)
		}
	}()
	a.mux.HandleFunc(r.String(), func(w http.ResponseWriter, req *http.Request) {
		a.serve(w, req, r)
	})
	return nil
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// ServeMux would redirect an unclean path; no client of ours means that.
	if clean(r) {
		if _, pattern := a.mux.Handler(r); pattern != "" {
			a.mux.ServeHTTP(w, r)
			return
		}
	}
	a.serve(w, r, Route{Path: unmatched, Permission: Anyone, Handle: a.refuse})
}

// clean reports whether a request's path is as short as it can be. It may end
// in a slash, as those of some rows do.
func clean(r *http.Request) bool {
	p := r.URL.EscapedPath()
	return path.Clean(p) == p || path.Clean(p)+"/" == p
}

// unmatched stands in the log and the metrics for every path that is not in
// the table, so that nobody can fill them with names.
const unmatched = "unmatched"

// refuse answers a request that no row of the table fits.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
	var says statusOnly
	if h, _ := a.mux.Handler(r); clean(r) {
		h.ServeHTTP(&says, r)
	}
	if says.status != http.StatusMethodNotAllowed {
		return soulbox.Errorf(soulbox.NotFound, "there is no %.200q here", r.URL.Path)
	}
	w.Header().Set("Allow", says.Header().Get("Allow"))
	answerError(w, http.StatusMethodNotAllowed, fmt.Sprintf("%.20s is not possible here; %s is", r.Method, says.Header().Get("Allow")))
	return nil
}

// serve answers a request that fits route: it lets the caller in, runs the
// handler, answers its error and writes the one line of log.
func (a *API) serve(w http.ResponseWriter, r *http.Request, route Route) {
	start := time.Now()
	id := rand.Text()
	out := &answer{ResponseWriter: w}
	out.Header().Set("X-Request-Id", id)
	r, body := guardBody(w, r, route)

	actor, err := a.run(out, r, route)
	if err != nil && !out.started() {
		a.answerErr(out, r, route, id, err)
	}
	body.abandon()

	took := time.Since(start)
	a.measure.observe(route, out.status(), took)
	a.record(r, route, line{id: id, actor: actor, status: out.status(), took: took, err: err})
}

// run lets the caller in and runs the handler. A panic comes back as an error.
func (a *API) run(w http.ResponseWriter, r *http.Request, route Route) (actor soulbox.Actor, err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: // how a handler asks net/http to drop the connection
			panic(v)
		default:
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if route.Permission != Anyone {
		if actor, err = a.admit(r, route.Permission); err != nil {
			return actor, err
		}
	}
	return actor, route.Handle(w, r, actor)
}

// answerErr answers a request whose handler returned err before it answered.
func (a *API) answerErr(w http.ResponseWriter, r *http.Request, route Route, id string, err error) {
	if r.Context().Err() != nil {
		// Nobody is there to read it; 499 is what nginx calls this in its log.
		w.WriteHeader(statusClientGone)
		return
	}
	if wait, ok := errors.AsType[*waitError](err); ok {
		w.Header().Set("Retry-After", wait.seconds())
	}
	msg := soulbox.MessageOf(err)
	if soulbox.KindOf(err) == soulbox.Internal {
		msg += " (request " + id + ")"
	}
	if route.Refuse != nil {
		route.Refuse(w, Status(err), err, msg)
		return
	}
	answerError(w, Status(err), msg)
}

const statusClientGone = 499

// line is what the log says of one request beside the request itself.
type line struct {
	id     string
	actor  soulbox.Actor
	status int
	took   time.Duration
	err    error
}

// record writes the one line of log that a request gets.
func (a *API) record(r *http.Request, route Route, l line) {
	level := slog.LevelInfo
	switch {
	case l.status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case l.status >= http.StatusInternalServerError:
		level = slog.LevelError
	case l.err != nil && soulbox.KindOf(l.err) == soulbox.Internal && l.status != statusClientGone:
		level = slog.LevelError // after the answer had started
	case !route.changes() || l.status >= http.StatusBadRequest:
		level = slog.LevelDebug
	}
	if !a.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request", l.id),
		slog.String("verb", clip(r.Method, 20)),
		slog.String("path", clip(r.URL.Path, 200)),
		slog.Int("status", l.status),
		slog.Duration("took", l.took),
	}
	if l.actor.Team != "" {
		attrs = append(attrs, slog.String("team", string(l.actor.Team)), slog.String("key", string(l.actor.Key)))
	}
	if l.err != nil {
		attrs = append(attrs, slog.Any("err", cause(l.err)))
	}
	a.log.LogAttrs(r.Context(), level, "request answered", attrs...)
}

// clip bounds what a stranger can put into the log.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
