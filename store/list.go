package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/soulbox/soulbox"
)

// Sandboxes returns one page of the sandboxes that f selects. Pages are
// stable: a sandbox that stays selected while somebody turns the pages shows
// exactly once. A cursor that is none of ours is Invalid.
func (s *Store) Sandboxes(ctx context.Context, f soulbox.SandboxFilter) (soulbox.SandboxPage, error) {
	page, err := s.sandboxes(ctx, f)
	return page, wrap(err, "list sandboxes of team", f.Team)
}

func (s *Store) sandboxes(ctx context.Context, f soulbox.SandboxFilter) (soulbox.SandboxPage, error) {
	var page soulbox.SandboxPage
	q := selection(f)
	where, args := q.text(), q.args

	if f.Limit > 0 || f.Cursor != "" {
		err := s.b.Read.QueryRowContext(ctx, `SELECT COUNT(*) FROM sandboxes WHERE `+where, args...).Scan(&page.Total)
		if err != nil {
			return page, err
		}
	}

	order, beyond := `listed_at DESC, id DESC`, `<`
	if f.Ascending {
		order, beyond = `listed_at, id`, `>`
	}
	if f.Cursor != "" {
		at, id, err := parseCursor[soulbox.SandboxID](f.Cursor)
		if err != nil {
			return page, err
		}
		q.and(`(listed_at, id) `+beyond+` (?, ?)`, at, string(id))
	}
	query := `SELECT ` + sandboxColumns + ` FROM sandboxes WHERE ` + q.text() + ` ORDER BY ` + order
	if f.Limit > 0 {
		// One more than asked for tells whether there is a next page.
		q.args = append(q.args, f.Limit+1)
		query += ` LIMIT $` + strconv.Itoa(len(q.args))
	}
	var err error
	if page.Sandboxes, err = collect(ctx, s.b.Read, scanSandbox, query, q.args...); err != nil {
		return page, err
	}
	if f.Limit > 0 && len(page.Sandboxes) > f.Limit {
		page.Sandboxes = page.Sandboxes[:f.Limit]
		last := page.Sandboxes[f.Limit-1]
		page.Next = cursor(listedAt(last), last.ID)
	}
	if f.Limit <= 0 && f.Cursor == "" {
		page.Total = len(page.Sandboxes)
	}
	return page, nil
}

// selection turns everything of f that does not depend on the page into
// conditions.
func selection(f soulbox.SandboxFilter) *conditions {
	var q conditions
	q.and(`team = ?`, string(f.Team))

	states := f.States
	if len(states) == 0 {
		states = []soulbox.State{soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming}
	}
	var in []any
	for _, st := range states {
		in = append(in, string(st))
	}
	q.and(`state IN (?`+strings.Repeat(`, ?`, len(in)-1)+`)`, in...)

	if f.Template != "" {
		q.and(`(template = ? OR alias = ? OR template IN (SELECT t.id FROM templates t WHERE t.name = ?))`,
			f.Template, f.Template, f.Template)
	}
	if !f.StartedAfter.IsZero() {
		q.and(`listed_at >= ?`, micros(f.StartedAfter))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Metadata)) {
		q.and(`EXISTS (SELECT 1 FROM sandbox_metadata m WHERE m.sandbox = sandboxes.id AND m.name = ? AND m.value = ?)`,
			name, f.Metadata[name])
	}
	return &q
}

// conditions collects the parts of a WHERE clause and numbers their
// parameters.
type conditions struct {
	parts []string
	args  []any
}

// and adds a condition in which every ? stands for the next of args.
func (c *conditions) and(part string, args ...any) {
	c.parts = append(c.parts, c.number(part, args...))
}

// number is for what is part of the query and not of the conditions.
func (c *conditions) number(part string, args ...any) string {
	for _, a := range args {
		c.args = append(c.args, a)
		part = strings.Replace(part, "?", "$"+strconv.Itoa(len(c.args)), 1)
	}
	return part
}

func (c *conditions) text() string { return strings.Join(c.parts, ` AND `) }

// cursor names a place in a list: behind the thing listed at that time.
func cursor[ID ~string](at int64, id ID) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d:%s", at, id))
}

// parseCursor is the reverse of cursor.
func parseCursor[ID interface {
	~string
	Valid() bool
}](s string) (at int64, id ID, err error) {
	bad := soulbox.Errorf(soulbox.Invalid, "the cursor %.100q is not one that this server gave out", s)
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return 0, "", bad
	}
	text, name, ok := strings.Cut(string(b), ":")
	if !ok {
		return 0, "", bad
	}
	at, err = strconv.ParseInt(text, 10, 64)
	id = ID(name)
	if err != nil || !id.Valid() || cursor(at, id) != s {
		return 0, "", bad
	}
	return at, id, nil
}
