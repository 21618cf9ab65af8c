package notebook

import (
	"encoding/json"
	"strings"
)

// program is a notebook's code.
type program struct {
	Extension string // of a file, with its point
	MediaType string
}

// comments says how a line of a comment begins.
var comments = map[string]string{
	"python": "#", "r": "#", "bash": "#", "javascript": "//", "typescript": "//", "java": "//",
}

// Script returns the notebook's code, and what files of it are called and are. Texts are comments, in those languages of
// which it is known how they are written. What IPython understands and Python
// does not is a comment, too.
func (d *Document) Script() (text, extension, mediaType string) {
	var meta struct {
		Info struct {
			Extension string `json:"file_extension"`
			MediaType string `json:"mimetype"`
		} `json:"language_info"`
	}
	_ = json.Unmarshal(d.Metadata, &meta) // it was checked
	k := d.Kernel()
	language := strings.ToLower(k.Language)
	if language == "" {
		language = k.Context()
	}
	s := program{Extension: meta.Info.Extension, MediaType: meta.Info.MediaType}
	if known := languages[language]; known != nil {
		s.fill(known)
	} else if language == "r" {
		s.fill(languages["R"])
	}
	if !isSimple(strings.TrimPrefix(s.Extension, ".")) || !strings.HasPrefix(s.Extension, ".") {
		s.Extension = ".txt"
	}
	if kind, sub, ok := strings.Cut(s.MediaType, "/"); !ok || kind != "text" || !isSimple(sub) {
		s.MediaType = "text/plain"
	}
	var b strings.Builder
	for _, c := range d.Cells {
		text := strings.TrimRight(c.Source, " \t\r\n")
		switch {
		case c.Type == Markdown && comments[language] != "":
			text = comment(text, comments[language])
		case c.Type != Code:
			continue
		case language == "python":
			text = plain(text)
		}
		if text == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		b.WriteString(text)
		b.WriteString("\n")
	}
	return b.String(), s.Extension, s.MediaType
}

func (s *program) fill(language map[string]any) {
	if e, ok := language["file_extension"].(string); ok && s.Extension == "" {
		s.Extension = e
	}
	if m, ok := language["mimetype"].(string); ok && s.MediaType == "" {
		s.MediaType = m
	}
}

// isSimple reports whether something may be in a header or a file's name.
func isSimple(s string) bool {
	const most = 40
	for _, c := range []byte(s) {
		if c != '-' && c != '.' && c != '+' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= most
}

func comment(text, mark string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(mark)
		if line != "\n" && line != "\r\n" {
			b.WriteString(" ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// plain returns code for IPython as code for Python: magics do nothing. A text
// in quotes that looks like one is taken for one.
func plain(code string) string {
	if strings.HasPrefix(strings.TrimLeft(code, " \t\n"), "%%") {
		return comment(code, "#")
	}
	var b strings.Builder
	for line := range strings.Lines(code) {
		rest := strings.TrimLeft(line, " \t")
		if isMagic(rest) {
			line = line[:len(line)-len(rest)] + "pass  # " + rest // an indented block may have nothing else
		}
		b.WriteString(line)
	}
	return b.String()
}

func isMagic(line string) bool {
	if strings.HasPrefix(line, "!") {
		return len(line) > 1 && line[1] != '='
	}
	return len(line) > 1 && line[0] == '%' && (line[1] >= 'a' && line[1] <= 'z' || line[1] >= 'A' && line[1] <= 'Z')
}
