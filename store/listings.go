package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// ensureListing makes the row of what a template tells.
func ensureListing(ctx context.Context, tx *sql.Tx, id soulbox.TemplateID) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO listings (template, description, readme, licence, categories, keywords, fork_of, published_at)
		VALUES ($1, '', '', '', '[]', '[]', '', 0) ON CONFLICT (template) DO NOTHING`, string(id))
	return err
}

// noteOrigin notes of which template another is a copy.
func noteOrigin(ctx context.Context, tx *sql.Tx, id, of soulbox.TemplateID) error {
	if of == "" {
		return nil
	}
	if err := ensureListing(ctx, tx, id); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE listings SET fork_of = $1 WHERE template = $2`, string(of), string(id))
	return err
}

// SetListing changes what a template tells those who look for one.
func (s *Store) SetListing(ctx context.Context, id soulbox.TemplateID, c soulbox.ListingChange, at time.Time) error {
	const (
		setCategories = `UPDATE listings SET categories = $1 WHERE template = $2`
		setKeywords   = `UPDATE listings SET keywords = $1 WHERE template = $2`
	)
	values := map[string]*string{ // by the query that writes them
		`UPDATE listings SET description = $1 WHERE template = $2`: c.Description,
		`UPDATE listings SET readme = $1 WHERE template = $2`:      c.Readme,
		`UPDATE listings SET licence = $1 WHERE template = $2`:     c.Licence,
	}
	for query, list := range map[string]*[]string{setCategories: c.Categories, setKeywords: c.Keywords} {
		if list == nil {
			continue
		}
		s, err := listText(*list)
		if err != nil {
			return wrap(err, "set listing of template", id)
		}
		values[query] = &s
	}
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE templates SET updated_at = $1 WHERE id = $2`, micros(at), string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, noTemplate(id)); err != nil {
			return err
		}
		if err := ensureListing(ctx, tx, id); err != nil {
			return err
		}
		for query, value := range values {
			if value == nil {
				continue
			}
			if _, err := tx.ExecContext(ctx, query, *value, string(id)); err != nil {
				return err
			}
		}
		return s.index(ctx, tx, id)
	})
	return wrap(err, "set listing of template", id)
}

// visible is the condition under which a team may start a template; see
// template.visible, which says the same in Go. Its parameter is the team.
const visible = `(t.public OR t.team = '' OR t.team = ?)`

// listed is what listings are read from. Its parameter is the reader's team.
const listed = `
	FROM templates t
	LEFT JOIN teams o ON o.id = t.team
	LEFT JOIN listings l ON l.template = t.id
	LEFT JOIN builds b ON b.id = t.build
	LEFT JOIN (SELECT template, CAST(SUM(stars) AS DOUBLE PRECISION) / COUNT(*) AS stars, COUNT(*) AS ratings FROM template_ratings GROUP BY template) r
		ON r.template = t.id
	LEFT JOIN template_ratings m ON m.template = t.id AND m.team = ?
	LEFT JOIN templates f ON f.id = l.fork_of AND (f.public OR f.team = '' OR f.team = ?)`

// listingColumns are those of a listing without its readme.
var listingColumns = prefixed("t", templateColumns) + `,
	COALESCE(o.slug, ''), COALESCE(l.description, ''), COALESCE(l.licence, ''), COALESCE(l.categories, '[]'), COALESCE(l.keywords, '[]'),
	COALESCE(b.retired, ''), COALESCE(r.stars, 0), COALESCE(r.ratings, 0), COALESCE(m.stars, 0), t.downloads, COALESCE(f.id, ''), COALESCE(l.published_at, 0)`

func prefixed(table, columns string) string {
	all := strings.Split(columns, ",")
	for i, c := range all {
		all[i] = table + "." + strings.TrimSpace(c)
	}
	return strings.Join(all, ", ")
}

func scanListing(r row) (*soulbox.Listing, error) { return readListing(r) }

// readListing reads listingColumns and what follows them.
func readListing(r row, rest ...any) (*soulbox.Listing, error) {
	l := &soulbox.Listing{Template: &soulbox.Template{}}
	fields := templateFields(l.Template)
	var categories, keywords string
	var published int64
	err := r.Scan(append(append(fields.dest, &l.Namespace, &l.Description, &l.Licence, &categories, &keywords,
		&l.Retired, &l.Stars, &l.Ratings, &l.Mine, &l.Downloads, &l.ForkOf, &published), rest...)...)
	if err != nil {
		return nil, err
	}
	if err := fields.finish(); err != nil {
		return nil, err
	}
	if l.Categories, err = parseList(categories); err != nil {
		return nil, err
	}
	if l.Keywords, err = parseList(keywords); err != nil {
		return nil, err
	}
	l.PublishedAt = instant(published)
	return l, nil
}

// Listing returns what a template tells a team, its readme included. Where it
// was copied from shows only if the team may see that.
func (s *Store) Listing(ctx context.Context, id soulbox.TemplateID, reader soulbox.TeamID) (*soulbox.Listing, error) {
	var q conditions
	from := q.number(listed, string(reader), string(reader))
	q.and(`t.id = ?`, string(id))
	var readme string
	l, err := readListing(s.b.Read.QueryRowContext(ctx,
		`SELECT `+listingColumns+`, COALESCE(l.readme, '')`+from+` WHERE `+q.text(), q.args...), &readme)
	if err != nil {
		return nil, wrap(found(err, "template", id), "read listing of template", id)
	}
	l.Readme = readme
	return l, nil
}

// Listings returns one page of the listings that f selects, of templates that
// have a default build. Unlike those of other lists, pages are counted: what
// moves up or down in the order between two of them may show twice or not at
// all.
func (s *Store) Listings(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error) {
	page, err := s.listings(ctx, f)
	return page, wrap(err, "list templates for team", f.Team)
}

// How much each part counts in which a word of a query occurs.
var partScores = map[TextPart]int{TextNames: 8, TextKeywords: 4, TextPackages: 2}

func (s *Store) listings(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error) {
	var page soulbox.ListingPage
	skip, err := parseOffset(f.Cursor)
	if err != nil {
		return page, err
	}
	var q conditions
	from := q.number(listed, string(f.Team), string(f.Team))
	q.and(`t.build <> ''`)
	q.and(visible, string(f.Team))
	if f.Mine {
		q.and(`t.team = ?`, string(f.Team))
	}
	if f.Category != "" {
		name, err := text(f.Category)
		if err != nil {
			return page, err
		}
		// Portable for "contains".
		q.and(`REPLACE(l.categories, ?, '') <> l.categories`, name)
	}
	if f.Package != "" {
		ok, err := s.containing(&q, f.Package)
		if err != nil || !ok {
			return page, err
		}
	}
	if f.Query != "" {
		match, ok := s.match(allParts, f.Query, false)
		if !ok {
			return page, nil // no word in it is in any text
		}
		q.and(`t.id IN (`+s.b.Text.Matching+`)`, match)
	}
	err = s.b.Read.QueryRowContext(ctx, `SELECT COUNT(*)`+from+` WHERE `+q.text(), q.args...).Scan(&page.Total)
	if err != nil {
		return page, err
	}
	where := q.text()
	order := s.listingOrder(&q, f)
	query := `SELECT ` + listingColumns + from + ` WHERE ` + where + ` ORDER BY ` + order
	if f.Limit > 0 {
		query += q.number(` LIMIT ?`, f.Limit)
	} else if skip > 0 {
		query += q.number(` LIMIT ?`, page.Total) // SQLite knows no offset without a limit
	}
	if skip > 0 {
		query += q.number(` OFFSET ?`, skip)
	}
	if page.Listings, err = collect(ctx, s.b.Read, scanListing, query, q.args...); err != nil {
		return page, err
	}
	if n := skip + len(page.Listings); len(page.Listings) > 0 && n < page.Total {
		page.Next = offset(n)
	}
	return page, nil
}

// containing adds the condition that a package is in the default build. Ok is
// false when there can be none.
func (s *Store) containing(q *conditions, name string) (ok bool, err error) {
	manager, rest, found := strings.Cut(name, ":")
	if !found {
		manager, rest = "", name
	}
	match, ok := s.match([]TextPart{TextPackages}, rest, false)
	if !ok {
		return false, nil
	}
	exact, err := packageText(manager, rest)
	if err != nil {
		return false, err
	}
	q.and(`t.id IN (`+s.b.Text.Matching+`)`, match)          // by the index
	q.and(`REPLACE(b.packages, ?, '') <> b.packages`, exact) // and to the letter
	return true, nil
}

// listingOrder returns the order that f asks for, the best first.
func (s *Store) listingOrder(q *conditions, f soulbox.ListingFilter) string {
	const rest = `t.downloads DESC, t.name, t.id`
	switch f.Sort {
	case soulbox.ByStars:
		return `COALESCE(r.stars, 0) DESC, COALESCE(r.ratings, 0) DESC, ` + rest
	case soulbox.ByUpdate:
		return `t.updated_at DESC, t.id`
	case soulbox.ByName:
		return `t.name, t.id`
	case soulbox.ByStarts:
		return rest
	default: // by relevance
		if f.Query == "" {
			return rest
		}
		order := q.number(`CASE WHEN t.name = ? THEN 0 ELSE 1 END, `, strings.ToLower(strings.TrimSpace(f.Query)))
		var score []string
		for _, p := range allParts {
			match, ok := s.match([]TextPart{p}, f.Query, true)
			if n := partScores[p]; ok && n > 0 {
				score = append(score, q.number(`CASE WHEN t.id IN (`+s.b.Text.Matching+`) THEN `+strconv.Itoa(n)+` ELSE 0 END`, match))
			}
		}
		return order + strings.Join(score, ` + `) + ` DESC, ` + rest
	}
}

// offset names a place in a list that is counted.
func offset(n int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("+" + strconv.Itoa(n)))
}

// parseOffset is the reverse of offset; nothing is the beginning.
func parseOffset(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err == nil {
		digits, ok := strings.CutPrefix(string(b), "+")
		n, err := strconv.Atoi(digits)
		if ok && err == nil && n > 0 && offset(n) == s {
			return n, nil
		}
	}
	return 0, soulbox.Errorf(soulbox.Invalid, "the cursor %.100q is not one that this server gave out", s)
}

// Categories returns how many templates that a team may start are in each.
func (s *Store) Categories(ctx context.Context, reader soulbox.TeamID) (map[string]int, error) {
	var q conditions
	q.and(`t.build <> ''`)
	q.and(visible, string(reader))
	scan := func(r row) (list []string, err error) {
		var s string
		if err := r.Scan(&s); err != nil {
			return nil, err
		}
		return parseList(s)
	}
	all, err := collect(ctx, s.b.Read, scan, `SELECT l.categories FROM listings l JOIN templates t ON t.id = l.template WHERE `+q.text(), q.args...)
	if err != nil {
		return nil, wrap(err, "list", "categories")
	}
	count := map[string]int{}
	for _, list := range all {
		for _, c := range list {
			count[c]++
		}
	}
	return count, nil
}

// Rate notes what a team gives a template; 0 stars take it back.
func (s *Store) Rate(ctx context.Context, id soulbox.TemplateID, team soulbox.TeamID, stars int, at time.Time) error {
	var err error
	if stars == 0 {
		_, err = s.exec(ctx, `DELETE FROM template_ratings WHERE template = $1 AND team = $2`, string(id), string(team))
	} else {
		err = s.change(ctx, noTemplate(id), `
			INSERT INTO template_ratings (template, team, stars, at)
			SELECT id, CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS BIGINT) FROM templates WHERE id = $4
			ON CONFLICT (template, team) DO UPDATE SET stars = excluded.stars, at = excluded.at`,
			string(team), stars, micros(at), string(id))
	}
	return wrap(err, "rate template", id)
}

// Report notes what a team says is wrong with a template, instead of what it
// said before.
func (s *Store) Report(ctx context.Context, r soulbox.Report) error {
	err := s.change(ctx, noTemplate(r.Template), `
		INSERT INTO template_reports (template, team, reason, at)
		SELECT id, CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT) FROM templates WHERE id = $4
		ON CONFLICT (template, team) DO UPDATE SET reason = excluded.reason, at = excluded.at`,
		string(r.Team), r.Reason, micros(r.At), string(r.Template))
	return wrap(err, "report template", r.Template)
}

// Reports returns what teams say is wrong with templates, the newest first.
func (s *Store) Reports(ctx context.Context) ([]soulbox.Report, error) {
	scan := func(r row) (v soulbox.Report, err error) {
		var at int64
		err = r.Scan(&v.Template, &v.Team, &v.Reason, &at)
		v.At = instant(at)
		return v, err
	}
	all, err := collect(ctx, s.b.Read, scan, `SELECT template, team, reason, at FROM template_reports ORDER BY at DESC, template, team`)
	return all, wrap(err, "list", "reports")
}
