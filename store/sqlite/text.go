package sqlite

import (
	"strings"

	"github.com/soulbox/soulbox/store"
)

// columns are those of the index, by what is in them.
var columns = map[store.TextPart]string{
	store.TextNames: "names", store.TextKeywords: "keywords", store.TextPackages: "packages", store.TextRest: "rest",
}

// text is an index of FTS5. A template is found in it by its id as one of its
// words, so that no change has to read all of them.
var text = store.Text{
	Setup: []string{
		`CREATE VIRTUAL TABLE IF NOT EXISTS template_index USING fts5
			(template, names, keywords, packages, rest, tokenize = 'unicode61 remove_diacritics 0')`,
	},
	Forget:   `DELETE FROM template_index WHERE template_index MATCH '{template} : "' || replace($1, '"', '""') || '"' AND template = $1`,
	Put:      `INSERT INTO template_index (template, names, keywords, packages, rest) VALUES ($1, $2, $3, $4, $5)`,
	Document: func(_ store.TextPart, words []string) string { return strings.Join(words, " ") },
	Matching: `SELECT template FROM template_index WHERE template_index MATCH ?`,
	Match: func(parts []store.TextPart, words []string, or bool) string {
		in := make([]string, len(parts))
		for i, p := range parts {
			in[i] = columns[p]
		}
		all := make([]string, len(words))
		for i, w := range words {
			all[i] = `"` + w + `"*`
		}
		operator := " AND "
		if or {
			operator = " OR "
		}
		return "{" + strings.Join(in, " ") + "} : (" + strings.Join(all, operator) + ")"
	},
}
