package native

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// remove removes a template by its id or name.
func (n *templateRoom) remove(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if err := n.registry.Remove(r.Context(), who.Team, t.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// importImage makes a template of an image's name or of the tar in the
// body, and tells how it goes, a line of JSON at a time. What goes wrong before
// the first line is an ordinary error with its status; later the status has
// been sent, and the last line tells.
func (n *templateRoom) importImage(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	query := r.URL.Query()
	ref, err := soulbox.ParseTemplateRef(query.Get("name"))
	if err != nil {
		return err
	}
	if ref != (soulbox.TemplateRef{Name: ref.Name}) {
		return soulbox.Errorf(soulbox.Invalid, "name: a template is imported under a plain name, without namespace, tag and version")
	}
	req := soulbox.ImportRequest{Team: who.Team, Name: ref.Name}
	if s := query.Get("isolation"); s != "" {
		class, err := soulbox.ParseIsolation(s)
		if err != nil {
			return err
		}
		req.Isolation = &class
	}
	if req.Source, err = sourceOf(r, query.Get("image")); err != nil {
		return err
	}

	lines := newLines(w)
	t, err := n.registry.Import(r.Context(), req, lines.progress)
	if err != nil {
		if !lines.begun() {
			return err
		}
		lines.write(importLine{Error: &api.Failure{Code: api.Status(err), Message: soulbox.MessageOf(err)}})
		return err // for the log
	}
	a := templateOf(t)
	lines.write(importLine{Template: &a})
	return nil
}

// sourceOf returns what to import: the image, or the body.
func sourceOf(r *http.Request, image string) (soulbox.ImageSource, error) {
	const maxImage = 512 // bytes of an image's name
	switch {
	case len(image) > maxImage:
		return soulbox.ImageSource{}, soulbox.Errorf(soulbox.Invalid, "image must not be longer than %d bytes", maxImage)
	case image == "" && r.ContentLength == 0:
		return soulbox.ImageSource{}, soulbox.Errorf(soulbox.Invalid, "an import needs image=NAME or a tar as its body")
	case image == "":
		return soulbox.ImageSource{Tar: r.Body}, nil
	}
	switch n, err := io.ReadFull(r.Body, make([]byte, 1)); {
	case n > 0:
		return soulbox.ImageSource{}, soulbox.Errorf(soulbox.Invalid, "an import takes image=NAME or a tar as its body, not both")
	case err != io.EOF:
		return soulbox.ImageSource{}, err
	}
	return soulbox.ImageSource{Ref: image}, nil
}

// lines writes lines of JSON as they come. It is safe for concurrent use.
type lines struct {
	w    http.ResponseWriter
	conn *http.ResponseController

	mu sync.Mutex
	// +checklocks:mu
	started bool
	// +checklocks:mu
	gone bool // the client does not read; the import goes on without telling
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, conn: http.NewResponseController(w)}
}

func (l *lines) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.started
}

func (l *lines) progress(text string) { l.write(importLine{Progress: &text}) }

// lineTime is how long a client may leave a line unread.
const lineTime = time.Minute

func (l *lines) write(line importLine) {
	b, err := json.Marshal(line)
	if err != nil {
		return // strings, numbers and times of our own always encode
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return
	}
	if !l.started {
		l.started = true
		// Without this net/http reads the whole body before the first line is
		// sent. Where it is not supported, it is not needed: HTTP/2 and tests.
		// Not sooner, because an ordinary error is told in the ordinary way.
		_ = l.conn.EnableFullDuplex()
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(http.StatusOK)
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(lineTime))
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		l.gone = true
		return
	}
	_ = l.conn.Flush() // what fails here fails with the next Write
	_ = l.conn.SetWriteDeadline(time.Time{})
}
