package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

var (
	errNonsense = soulbox.Errorf(soulbox.Unavailable, "the answer of the sandbox's code interpreter is not what it should be")
	errLong     = soulbox.Errorf(soulbox.TooLarge, "the answer of the sandbox's code interpreter has more than %d MiB", maxAnswer>>20)
	errLongLine = soulbox.Errorf(soulbox.TooLarge, "one line of what the sandbox's code interpreter says has more than %d MiB", maxLine>>20)
	errFlood    = soulbox.Errorf(soulbox.TooLarge, "the sandbox's code interpreter says more than %d MiB", maxStream>>20)
	errCrowded  = soulbox.Errorf(soulbox.Exhausted, "too many large answers at the same time; try again later")
)

// kinds is what the statuses of the contract mean.
var kinds = map[int]soulbox.Kind{
	http.StatusBadRequest:            soulbox.Invalid,
	http.StatusNotFound:              soulbox.NotFound,
	http.StatusConflict:              soulbox.Conflict,
	http.StatusRequestEntityTooLarge: soulbox.TooLarge,
	http.StatusInternalServerError:   soulbox.Unavailable,
}

// refused says why an interpreter said no.
func (l *Lab) refused(ctx context.Context, id soulbox.SandboxID, res *http.Response) error {
	if _, known := kinds[res.StatusCode]; !known && res.StatusCode != http.StatusMethodNotAllowed {
		return l.refusal(id, res.StatusCode, nil) // what follows a switch of protocols may never end
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxSay))
	if err != nil {
		return broken(ctx, err)
	}
	return l.refusal(id, res.StatusCode, b)
}

// refusal words an answer that says no.
func (l *Lab) refusal(id soulbox.SandboxID, status int, body []byte) error {
	var says struct {
		Code     int    `json:"code"`
		Message  string `json:"message"`
		Revision string `json:"revision"`
	}
	told := json.Unmarshal(body, &says) == nil && says.Code == status
	kind, known := kinds[status]
	switch {
	case !told && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed):
		return soulbox.Errorf(soulbox.Conflict, "the code interpreter of sandbox %s cannot do this; %s", id, l.advice())
	case !known:
		return soulbox.Errorf(soulbox.Unavailable, "the sandbox's code interpreter answers with status %d, which nobody expects", status)
	}
	msg := sentence(says.Message)
	if !told || msg == "" {
		msg = "the sandbox's code interpreter does not say why"
	}
	if status == http.StatusInternalServerError {
		msg = "the sandbox's code interpreter says: " + msg
	}
	refused := soulbox.Errorf(kind, "%s", msg)
	if r := says.Revision; kind == soulbox.Conflict && told && r != "" && len(r) <= maxRevision && strings.Trim(r, "0123456789abcdefghijklmnopqrstuvwxyz") == "" {
		return &soulbox.OutdatedError{Revision: r, Err: refused}
	}
	return refused
}

const (
	maxRevision = 64   // a hash
	maxSentence = 1000 // bytes of a message; a sentence or two
)

// sentence makes one line of what came out of a sandbox, for people to read.
func sentence(s string) string {
	if len(s) > maxSentence {
		s = s[:maxSentence] + "…"
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return -1
		case !unicode.IsPrint(r):
			return ' '
		default:
			return r
		}
	}, s))
}

// broken says why an answer could not be read to its end.
func broken(ctx context.Context, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case soulbox.KindOf(err) != soulbox.Internal:
		return err
	}
	return soulbox.Hide(soulbox.Unavailable, err, "the sandbox's code interpreter stopped in the middle of its answer")
}

// typeOf returns the media type of a file as it is told to clients: one of
// types, the first unless it says another.
func typeOf(said string, types []string) string {
	said, _, err := mime.ParseMediaType(said)
	i := slices.IndexFunc(types, func(t string) bool {
		known, _, _ := strings.Cut(t, ";")
		return known == said
	})
	if err != nil || i < 0 {
		return types[0]
	}
	return types[i]
}

// isObject reports whether b is one JSON object, in UTF-8.
func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && b[0] == '{' && utf8.Valid(b) && json.Valid(b)
}

// A parcel is what an answer takes of the room for all of them.
type parcel struct {
	room  *atomic.Int64
	most  int
	taken int64
	bytes []byte
}

// grow makes room for n more bytes.
func (p *parcel) grow(n int) error {
	need := len(p.bytes) + n
	if need <= cap(p.bytes) {
		return nil
	}
	next := max(need, min(2*cap(p.bytes), p.most+1)) // the old ones are there until all are copied
	if err := p.take(int64(next)); err != nil {
		return err
	}
	old := int64(cap(p.bytes))
	p.bytes = append(make([]byte, 0, next), p.bytes...)
	p.give(old)
	return nil
}

func (p *parcel) take(n int64) error {
	p.taken += n
	if p.room.Add(-n) < 0 {
		return errCrowded
	}
	return nil
}

func (p *parcel) give(n int64) {
	p.taken -= n
	p.room.Add(n)
}

// fill reads all of r, which may be as much as most.
func (p *parcel) fill(r io.Reader) error {
	for {
		if err := p.grow(piece); err != nil {
			return err
		}
		n, err := r.Read(p.bytes[len(p.bytes):cap(p.bytes)])
		p.bytes = p.bytes[:len(p.bytes)+n]
		switch {
		case len(p.bytes) > p.most:
			return errLong
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// release gives back the room. The bytes are not to be used any more.
func (p *parcel) release() {
	p.give(p.taken)
	p.bytes = nil
}

// lines reads a stream of JSON objects, one a line.
type lines struct {
	in    *bufio.Reader
	line  parcel
	total int
}

func newLines(r io.Reader, room *atomic.Int64) *lines {
	return &lines{in: bufio.NewReaderSize(r, 64<<10), line: parcel{room: room, most: maxLine}}
}

func (l *lines) release() { l.line.release() }

// next returns the next line and its type. A stream that just ends is cut off.
func (l *lines) next() (line []byte, kind string, err error) {
	l.line.bytes = l.line.bytes[:0]
	for {
		part, err := l.in.ReadSlice('\n')
		if l.total += len(part); l.total > maxStream {
			return nil, "", errFlood
		}
		if len(l.line.bytes)+len(part) > l.line.most {
			return nil, "", errLongLine
		}
		if err := l.line.grow(len(part)); err != nil {
			return nil, "", err
		}
		l.line.bytes = append(l.line.bytes, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil, "", io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, "", err
		}
		break
	}
	line = bytes.TrimSpace(l.line.bytes)
	kind, ok := kindOf(line)
	if !ok {
		return nil, "", errNonsense
	}
	return line, kind, nil
}

// kindOf returns the type of a line, if it is one of the contract's form.
func kindOf(line []byte) (string, bool) {
	var head struct {
		Type string `json:"type"`
	}
	if !isObject(line) || json.Unmarshal(line, &head) != nil || head.Type == "" || len(head.Type) > 32 {
		return "", false
	}
	return head.Type, true
}
