package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox"
)

// eventTime is how long a client may take to fetch an event. One that is slower
// loses the connection, and comes back with the last id it has.
const eventTime = time.Minute

// lastEventID reads behind which event a client wants to go on: from the query,
// or from the header that browsers send when they connect again. Without one it
// is the beginning.
func lastEventID(r *http.Request) (uint64, error) {
	s := r.URL.Query().Get("last_event_id")
	if h := r.Header.Get("Last-Event-ID"); h != "" { // it is the newer one: the URL stays the same when a browser reconnects
		s = h
	}
	if s == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, soulbox.Errorf(soulbox.Invalid, "last_event_id must be the id of an event, a whole number, not %.50q", s)
	}
	return id, nil
}

// events streams the events of a session: as server-sent events, or over a
// WebSocket where the client asks for one. With follow=false it ends when there
// is nothing more now.
func (n *sessionRoom) events(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return n.webSocket(w, r, who)
	}
	after, err := lastEventID(r)
	if err != nil {
		return err
	}
	follow, err := boolean(r, "follow", true)
	if err != nil {
		return err
	}
	out := newStream(w)
	var idle func() error
	if follow {
		// What is wrong with the request shows before anything is sent; a
		// client must not wait for the first event to learn that nothing is.
		if err := n.sessions.Events(r.Context(), who.Team, sessionID(r), after, nil, func(soulbox.SessionEvent) error { return errEnough }); err != nil && !errors.Is(err, errEnough) {
			return err
		}
		if err := out.comment("open"); err != nil {
			return nil //nolint:nilerr // the client has gone
		}
		idle = func() error { return out.comment("") }
	}
	err = n.sessions.Events(r.Context(), who.Team, sessionID(r), after, idle, out.event)
	if err == nil && !out.begun {
		err = out.comment("nothing new")
	}
	if out.begun && (out.broken != nil || soulbox.KindOf(err) == soulbox.Unavailable) {
		return nil //nolint:nilerr // it has gone, or comes back to the next server
	}
	return err
}

var errEnough = errors.New("one event is enough")

// stream writes server-sent events, or what else its kind says.
type stream struct {
	w      http.ResponseWriter
	conn   *http.ResponseController
	kind   string // the media type
	begun  bool
	broken error
}

const eventStream = "text/event-stream"

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, conn: http.NewResponseController(w), kind: eventStream}
}

func (s *stream) event(e soulbox.SessionEvent) error {
	b, err := json.Marshal(eventOf(e))
	if err != nil {
		return err
	}
	return s.write(fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, b))
}

// comment writes what clients ignore and connections on the way notice.
func (s *stream) comment(text string) error { return s.write([]byte(": " + text + "\n\n")) }

func (s *stream) write(b []byte) error {
	if !s.begun {
		s.begun = true
		h := s.w.Header()
		h.Set("Content-Type", s.kind)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no") // for reverse proxies
		s.w.WriteHeader(http.StatusOK)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(eventTime)) // writers in memory know no deadlines
	_, err := s.w.Write(b)
	if err == nil {
		err = s.conn.Flush()
	}
	_ = s.conn.SetWriteDeadline(time.Time{})
	s.broken = err
	return err
}

// webSocket streams the events of a session as text messages. It reads nothing
// but the end of the connection.
func (n *sessionRoom) webSocket(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	after, err := lastEventID(r)
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return soulbox.Errorf(soulbox.Invalid, "this is for WebSockets; the same events come as server-sent events from /v1/sessions/ID/events")
	}
	err = n.sessions.Events(r.Context(), who.Team, sessionID(r), after, nil, func(soulbox.SessionEvent) error { return errEnough })
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	// A page of another site has no key to send, so its origin does not matter;
	// it is checked all the same.
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil // it has answered
	}
	defer conn.CloseNow() //nolint:errcheck // it is closed already if all went well
	ctx := conn.CloseRead(r.Context())
	send := func(do func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, eventTime)
		defer cancel()
		return do(ctx)
	}
	err = n.sessions.Events(ctx, who.Team, sessionID(r), after,
		func() error { return send(conn.Ping) },
		func(e soulbox.SessionEvent) error {
			b, err := json.Marshal(eventOf(e))
			if err != nil {
				return err
			}
			return send(func(ctx context.Context) error { return conn.Write(ctx, websocket.MessageText, b) })
		})
	switch {
	case err == nil:
		_ = conn.Close(websocket.StatusNormalClosure, "the session has ended") // the other side may be gone
	case soulbox.KindOf(err) == soulbox.Unavailable:
		_ = conn.Close(websocket.StatusServiceRestart, "connect again") // as above
	}
	return nil
}
