package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"unicode"

	"github.com/soulbox/soulbox"
)

// A Text is how a database finds the templates in whose texts words occur. It
// is the one thing that is asked of each dialect in its own words: the index is
// a table called template_index with a column template, and the rest of it is
// the dialect's. A word is a row of letters and digits, lower-case.
//
// Which of its words a template shares with others plays no part in how well it
// fits: a score that knew how rare a word is would tell something of templates
// that one may not see.
type Text struct {
	Setup  []string // makes the index; repeated at every start, in one transaction
	Forget string   // the text of template $1; of none is not an error
	Put    string   // adds the text of template $1: $2 to $5 are what Document makes of each [TextPart]

	Document func(p TextPart, words []string) string

	// Matching selects the templates that fit the query ?, which Match makes:
	// those with all of the words, or with or any of them, in one of the parts.
	// A word also stands for those that begin with it.
	Matching string
	Match    func(parts []TextPart, words []string, or bool) string
}

// A TextPart is a part of what there is to read about a template.
type TextPart int

// The parts, the most telling first.
const (
	TextNames    TextPart = iota // the template's and its team's
	TextKeywords                 // keywords, categories and tags
	TextPackages                 // names of packages in its default build
	TextRest                     // what people wrote about it
)

var allParts = []TextPart{TextNames, TextKeywords, TextPackages, TextRest}

// Bounds of what is looked at. A word is cut, and further ones are left out.
const (
	maxWord       = 40     // letters
	maxWords      = 10_000 // of one part of a text
	maxQueryWords = 16
)

// words returns the words of texts, each once and sorted. Where writing has no
// spaces, every letter is one.
func words(most int, texts ...string) []string {
	seen := map[string]bool{}
	for _, t := range texts {
		var word []rune
		flush := func() {
			if len(word) > 0 && len(seen) < most {
				seen[string(word)] = true
			}
			word = word[:0]
		}
		for _, c := range t {
			switch {
			case unicode.In(c, unicode.Han, unicode.Hiragana, unicode.Katakana):
				flush()
				word = append(word, c)
				flush()
			case unicode.IsLetter(c) || unicode.IsDigit(c):
				if len(word) < maxWord {
					word = append(word, unicode.ToLower(c))
				}
			default:
				flush()
			}
		}
		flush()
	}
	all := make([]string, 0, len(seen))
	for w := range seen {
		all = append(all, w)
	}
	slices.Sort(all)
	return all
}

// openText makes the index, and the texts of templates that have none.
func (s *Store) openText(ctx context.Context) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, statement := range s.b.Text.Setup {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return wrap(err, "make the index of", "templates")
	}
	scan := func(r row) (id soulbox.TemplateID, err error) { return id, r.Scan(&id) }
	missing, err := collect(ctx, s.b.Read, scan, `SELECT id FROM templates WHERE id NOT IN (SELECT template FROM template_index)`)
	if err != nil {
		return wrap(err, "list", "templates without a text")
	}
	for _, id := range missing {
		if err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.index(ctx, tx, id) }); err != nil {
			return wrap(err, "index template", id)
		}
	}
	return nil
}

// index writes down what there is to find about a template.
func (s *Store) index(ctx context.Context, tx *sql.Tx, id soulbox.TemplateID) error {
	var name, slug, source, about, readme, licence, categories, keywords, found, packages string
	err := tx.QueryRowContext(ctx, `
		SELECT t.name, COALESCE(o.slug, ''), t.source, COALESCE(l.description, ''), COALESCE(l.readme, ''), COALESCE(l.licence, ''),
			COALESCE(l.categories, '[]'), COALESCE(l.keywords, '[]'), COALESCE(b.facts, '{}'), COALESCE(b.packages, '[]')
		FROM templates t
		LEFT JOIN teams o ON o.id = t.team
		LEFT JOIN listings l ON l.template = t.id
		LEFT JOIN builds b ON b.id = t.build
		WHERE t.id = $1`, string(id)).Scan(&name, &slug, &source, &about, &readme, &licence, &categories, &keywords, &found, &packages)
	if err != nil {
		return err
	}
	scan := func(r row) (tag string, err error) { return tag, r.Scan(&tag) }
	tags, err := collect(ctx, tx, scan, `SELECT name FROM template_tags WHERE template = $1 AND name <> $2`, string(id), soulbox.DefaultTag)
	if err != nil {
		return err
	}
	var f facts
	var packs []pack
	if err := json.Unmarshal([]byte(found), &f); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(packages), &packs); err != nil {
		return err
	}
	names := make([]string, len(packs))
	for i, p := range packs {
		names[i] = p[1]
	}
	args := []any{string(id)}
	for part, texts := range [][]string{
		TextNames:    {name, slug},
		TextKeywords: append(tags, categories, keywords),
		TextPackages: names,
		TextRest:     {about, readme, licence, source, f.Distribution},
	} {
		args = append(args, s.b.Text.Document(TextPart(part), words(maxWords, texts...)))
	}
	if _, err := tx.ExecContext(ctx, s.b.Text.Forget, string(id)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, s.b.Text.Put, args...)
	return err
}

// match returns the query for templates with all words of a text, or with or any
// of them, in one of parts. It is not ok when there is no word.
func (s *Store) match(parts []TextPart, query string, or bool) (match string, ok bool) {
	all := words(maxQueryWords, query)
	if len(all) == 0 {
		return "", false
	}
	return s.b.Text.Match(parts, all, or), true
}
