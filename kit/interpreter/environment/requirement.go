package environment

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	maxPackages     = 500
	maxRequirement  = 1 << 10   // bytes
	maxRequirements = 256 << 10 // bytes of a text
	maxURL          = 2 << 10   // bytes
)

// Batch is what is to be installed together.
type Batch struct {
	Packages     []string // such as "numpy==2.1", "pandas[excel]>=2", "name @ https://…"
	Requirements string   // a text of them, a line each, with hashes if wanted
	Index        string   // the URL of the index to ask instead of the usual one
	Upgrade      bool     // to the newest that fits, what is there already, too
}

// requirement is one line of a batch.
type requirement struct {
	name   string // normalized
	text   string
	hashes []string // "--hash=sha256:…"
}

// line writes it as installers read it.
func (r *requirement) line() string { return strings.Join(append([]string{r.text}, r.hashes...), " ") }

// check returns the lines of a batch, or says what is wrong with it.
func (b *Batch) check() ([]requirement, error) {
	if b.Index != "" {
		if u, err := url.Parse(b.Index); err != nil || len(b.Index) > maxURL || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, refuse(Invalid, "index_url must be a URL that begins with http:// or https://")
		}
	}
	var all []requirement
	for _, p := range b.Packages {
		r, err := parse(p)
		if err != nil {
			return nil, err
		}
		if len(r.hashes) > 0 {
			return nil, refuse(Invalid, "%.100q: hashes belong in requirements", p)
		}
		all = append(all, *r)
	}
	more, err := parseAll(b.Requirements)
	if err != nil {
		return nil, err
	}
	all = append(all, more...)
	switch {
	case len(all) == 0:
		return nil, refuse(Invalid, "packages or requirements must name at least one package")
	case len(all) > maxPackages:
		return nil, refuse(Invalid, "at most %d packages can be installed at once", maxPackages)
	}
	return all, nil
}

// parseAll reads the text of a requirements file, without options.
func parseAll(text string) ([]requirement, error) {
	if len(text) > maxRequirements {
		return nil, refuse(Invalid, "requirements has more than %d bytes", maxRequirements)
	}
	var all []requirement
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\\\n", " ")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		if i := strings.Index(line, " #"); i >= 0 {
			line = strings.TrimSpace(line[:i])
		}
		if line == "" {
			continue
		}
		r, err := parse(line)
		if err != nil {
			return nil, err
		}
		all = append(all, *r)
	}
	return all, nil
}

// parse reads a requirement. What it lets pass is one for the installer to judge,
// and neither an option nor a file.
func parse(text string) (*requirement, error) {
	text = strings.TrimSpace(text)
	fields := strings.Fields(text)
	r := &requirement{}
	for len(fields) > 1 && strings.HasPrefix(fields[len(fields)-1], "--hash=") {
		r.hashes = append(r.hashes, fields[len(fields)-1])
		fields = fields[:len(fields)-1]
	}
	if r.hashes != nil {
		text = strings.Join(fields, " ")
	}
	bad := func(why string) error { return refuse(Invalid, "%.100q is not a requirement: %s", text, why) }
	switch {
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' || c == '$' }):
		return nil, bad("it has a character that none has")
	case len(text) > maxRequirement:
		return nil, bad(fmt.Sprintf("it has more than %d bytes", maxRequirement))
	case strings.HasPrefix(text, "-"):
		return nil, bad("options are not taken; index_url and upgrade are fields of the request")
	case strings.Contains(text, " -"):
		return nil, bad("options are not taken")
	case strings.Contains(text, " #"):
		return nil, bad("a comment belongs in requirements")
	}
	end := 0
	for end < len(text) && (isWord(text[end]) || strings.IndexByte("._-", text[end]) >= 0) {
		end++
	}
	name, rest := text[:end], strings.TrimSpace(text[end:])
	if name == "" || !isWord(name[0]) || !isWord(name[len(name)-1]) {
		return nil, bad("it must begin with the name of a package, such as numpy or numpy==2.1")
	}
	if strings.HasPrefix(rest, "[") {
		i := strings.IndexByte(rest, ']')
		if i < 0 {
			return nil, bad("its extras do not end")
		}
		rest = strings.TrimSpace(rest[i+1:])
	}
	if at, ok := strings.CutPrefix(rest, "@"); ok {
		u, err := url.Parse(strings.TrimSpace(at))
		if err != nil || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "file" && u.Scheme != "git+https" {
			return nil, bad("what follows @ must be a URL that begins with https://, http://, file:// or git+https://")
		}
	} else if rest != "" && strings.IndexByte("<>=!~;(", rest[0]) < 0 {
		return nil, bad("a name is followed by ==, >=, <=, !=, ~=, <, >, ; or @")
	}
	r.name, r.text = normal(name), text
	return r, nil
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// normal returns the form of a name in which two are the same package.
func normal(name string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(c rune) bool { return c == '-' || c == '_' || c == '.' }), "-")
}
