package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strings"

	"github.com/soulbox/soulbox"
)

// buildEvents streams the lines of a build and, last, what became of it: as
// server-sent events, or as lines of JSON where the client prefers those. With
// follow=false it ends when there is nothing more now.
func (n *templateRoom) buildEvents(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	last, err := lastEventID(r)
	if err != nil {
		return err
	}
	if last > math.MaxInt32 {
		return soulbox.Errorf(soulbox.Invalid, "there is no line %d yet", last)
	}
	follow, err := boolean(r, "follow", true)
	if err != nil {
		return err
	}
	t, id, err := n.findBuild(r, who)
	if err != nil {
		return err
	}
	out := newStream(w)
	tell := buildTeller{out}
	if wantsLines(r) {
		out.kind = "application/x-ndjson"
	}
	var idle func() error
	if follow {
		// What is wrong with the request shows before anything is sent; a
		// client must not wait for the first line to learn that nothing is.
		_, err := n.registry.Watch(r.Context(), who.Team, t, id, int(last), nil, func(int, soulbox.BuildLine) error { return errEnough })
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if err := tell.idle(); err != nil {
			return nil //nolint:nilerr // the client has gone
		}
		idle = tell.idle
	}
	b, err := n.registry.Watch(r.Context(), who.Team, t, id, int(last), idle, tell.line)
	if err == nil {
		err = tell.end(b)
	}
	if out.begun && (out.broken != nil || r.Context().Err() != nil || soulbox.KindOf(err) == soulbox.Unavailable) {
		return nil //nolint:nilerr // it has gone, or comes back to the next server
	}
	return err
}

// wantsLines reports whether the client asks for lines of JSON rather than
// server-sent events.
func wantsLines(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			switch kind, _, _ := mime.ParseMediaType(part); kind {
			case "application/x-ndjson", "application/jsonl":
				return true
			case "text/event-stream":
				return false
			}
		}
	}
	return false
}

// buildTeller writes what a build tells to a stream.
type buildTeller struct{ out *stream }

func (t buildTeller) line(number int, l soulbox.BuildLine) error {
	line := lineOf(l)
	line.ID = number
	return t.write(fmt.Sprintf("id: %d\nevent: line\n", number), buildEvent{Line: &line})
}

// end tells the build as it is. It has no number, so that who comes back after
// it hears it again.
func (t buildTeller) end(b *soulbox.Build) error {
	answer := buildOf(b)
	return t.write("event: build\n", buildEvent{Build: &answer})
}

func (t buildTeller) write(head string, e buildEvent) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if t.out.kind != eventStream {
		return t.out.write(append(b, '\n'))
	}
	return t.out.write(fmt.Appendf(nil, "%sdata: %s\n\n", head, b))
}

// idle writes what clients ignore and connections on the way notice.
func (t buildTeller) idle() error {
	if t.out.kind != eventStream {
		return t.out.write([]byte("\n"))
	}
	return t.out.comment("")
}
