package postgres

import (
	"strconv"
	"strings"

	"github.com/soulbox/soulbox/store"
)

// weights are the letters that tell the parts of a text from each other.
var weights = map[store.TextPart]string{
	store.TextNames: "A", store.TextKeywords: "B", store.TextPackages: "C", store.TextRest: "D",
}

// text is a table of tsvectors. Words go in and are looked for as they are:
// PostgreSQL's own reading of texts depends on the locale of the database.
var text = store.Text{
	Setup: []string{
		`SELECT pg_advisory_xact_lock(5094283217734)`, // two servers may start at once; the number means nothing
		`CREATE TABLE IF NOT EXISTS template_index (template TEXT NOT NULL PRIMARY KEY, document tsvector NOT NULL)`,
		`CREATE INDEX IF NOT EXISTS template_index_words ON template_index USING gin (document)`,
	},
	Forget: `DELETE FROM template_index WHERE template = $1`,
	Put: `INSERT INTO template_index (template, document) VALUES ($1, CAST(CONCAT_WS(' ', $2::text, $3::text, $4::text, $5::text) AS tsvector))
		ON CONFLICT (template) DO UPDATE SET document = excluded.document`,
	Document: func(p store.TextPart, words []string) string {
		// Each word once, at a place that says in which part it is.
		suffix := ":" + strconv.Itoa(int(p)+1) + weights[p]
		all := make([]string, len(words))
		for i, w := range words {
			all[i] = "'" + w + "'" + suffix
		}
		return strings.Join(all, " ")
	},
	Matching: `SELECT template FROM template_index WHERE document @@ CAST(? AS tsquery)`,
	Match: func(parts []store.TextPart, words []string, or bool) string {
		var suffix strings.Builder
		suffix.WriteString(":*")
		for _, p := range parts {
			suffix.WriteString(weights[p])
		}
		all := make([]string, len(words))
		for i, w := range words {
			all[i] = "'" + w + "'" + suffix.String()
		}
		if or {
			return strings.Join(all, " | ")
		}
		return strings.Join(all, " & ")
	},
}
