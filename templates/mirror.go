package templates

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// release is the Debian that base is made of.
const release = "bookworm"

const (
	debianMain     = "http://deb.debian.org/debian"
	debianSecurity = "http://deb.debian.org/debian-security"
)

// A mirror is where Debian's packages come from.
type mirror struct {
	main     string
	security string // empty: it has none
	keyring  string // file with its key; empty: it is signed by Debian
	trusted  bool   // the machine's administrator said that it needs no signature
}

// sources returns the lines of sources.list for the mirror.
func (m mirror) sources() []string {
	var opts string
	switch {
	case m.trusted:
		opts = "[trusted=yes] "
	case m.keyring != "":
		opts = "[signed-by=" + m.keyring + "] "
	}
	all := []string{
		"deb " + opts + m.main + " " + release + " main",
		"deb " + opts + m.main + " " + release + "-updates main",
	}
	if m.security != "" {
		all = append(all, "deb "+opts+m.security+" "+release+"-security main")
	}
	return all
}

// An entry is one address that a machine's apt knows, for one suite.
type entry struct {
	uri, suite string
	components []string
	signedBy   string // a path, or a key itself; empty: any key that apt trusts
	trusted    bool
}

// hostMirror returns the Debian mirror that a machine's apt uses, because some
// networks reach no other, and Debian's own on a machine that has none.
// Every mirror carries all releases, so the machine's own does not matter.
// etc is /etc/apt.
func hostMirror(etc fs.FS) (mirror, error) {
	all, err := entries(etc)
	if err != nil {
		return mirror{}, fmt.Errorf("read apt sources: %w", err)
	}
	// The machine's own lines for our release come before those for others.
	slices.SortStableFunc(all, func(a, b entry) int {
		return ours(b.suite) - ours(a.suite)
	})
	var m mirror
	for _, e := range all {
		name, kind, _ := strings.Cut(e.suite, "-")
		if !slices.Contains(releases, name) || !slices.Contains(e.components, "main") || !isDebian(e, all) {
			continue
		}
		switch {
		case kind == "" && m.main == "":
			m.main, m.trusted = e.uri, e.trusted
			if !debianKey(e.signedBy) {
				m.keyring = e.signedBy
			}
		case kind == "security" && m.security == "":
			m.security = e.uri
		}
	}
	if m.main == "" {
		return mirror{main: debianMain, security: debianSecurity}, nil
	}
	return m, nil
}

// releases are the names that Debian's own suites begin with.
var releases = []string{release, "buster", "bullseye", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"}

func ours(suite string) int {
	if name, _, _ := strings.Cut(suite, "-"); name == release {
		return 1
	}
	return 0
}

// isDebian tells Debian's archive from others that use its release names: it is
// signed by Debian, or it also has Debian's updates, or nothing speaks against
// its name.
func isDebian(e entry, all []entry) bool {
	if debianKey(e.signedBy) && (e.signedBy != "" || strings.HasPrefix(path.Base(e.uri), "debian")) {
		return true
	}
	return path.IsAbs(e.signedBy) && !strings.ContainsAny(e.signedBy, " ,\t\n[]") && slices.ContainsFunc(all, func(o entry) bool {
		return o.uri == e.uri && strings.HasSuffix(o.suite, "-updates")
	})
}

// debianKey reports whether a source relies on the keys of Debian's package
// debian-archive-keyring, which mmdebstrap finds by itself.
func debianKey(signedBy string) bool {
	return signedBy == "" || strings.HasPrefix(path.Base(signedBy), "debian-archive-")
}

// entries reads sources.list and what lies in sources.list.d, like apt does.
func entries(etc fs.FS) ([]entry, error) {
	var all []entry
	names := []string{"sources.list"}
	for _, pattern := range []string{"sources.list.d/*.list", "sources.list.d/*.sources"} {
		more, err := fs.Glob(etc, pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	for _, name := range names {
		b, err := fs.ReadFile(etc, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if path.Ext(name) == ".sources" {
			all = append(all, parseStanzas(string(b))...)
		} else {
			all = append(all, parseLines(string(b))...)
		}
	}
	for i := range all {
		all[i].uri = strings.TrimSuffix(resolve(etc, all[i].uri), "/")
	}
	return slices.DeleteFunc(all, func(e entry) bool {
		return !strings.HasPrefix(e.uri, "http://") && !strings.HasPrefix(e.uri, "https://")
	}), nil
}

// resolve replaces a list of mirrors, as cloud images have it, by its first.
func resolve(etc fs.FS, uri string) string {
	name, ok := strings.CutPrefix(uri, "mirror+file:/etc/apt/")
	if !ok {
		return uri
	}
	b, err := fs.ReadFile(etc, name)
	if err != nil {
		return "" // apt cannot use it either
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") {
			return f[0]
		}
	}
	return ""
}

var oneLine = regexp.MustCompile(`^\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)`)

// parseLines reads the format of sources.list(5) with one source on a line.
func parseLines(text string) []entry {
	var all []entry
	for line := range strings.Lines(text) {
		m := oneLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		e := entry{uri: m[2], suite: m[3], components: strings.Fields(m[4])}
		for opt := range strings.FieldsSeq(m[1]) {
			switch k, v, _ := strings.Cut(opt, "="); strings.ToLower(k) {
			case "signed-by":
				e.signedBy = strings.Trim(v, `"`)
			case "trusted":
				e.trusted = v == "yes"
			}
		}
		all = append(all, e)
	}
	return all
}

// parseStanzas reads the format of sources.list(5) with fields and values.
func parseStanzas(text string) []entry {
	var all []entry
	fields := map[string]string{}
	var last string
	flush := func() {
		f := fields
		fields, last = map[string]string{}, ""
		if strings.EqualFold(f["enabled"], "no") || !slices.Contains(strings.Fields(f["types"]), "deb") {
			return
		}
		for uri := range strings.FieldsSeq(f["uris"]) {
			for suite := range strings.FieldsSeq(f["suites"]) {
				all = append(all, entry{
					uri: uri, suite: suite, components: strings.Fields(f["components"]),
					signedBy: strings.TrimSpace(f["signed-by"]), trusted: strings.EqualFold(f["trusted"], "yes"),
				})
			}
		}
	}
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += "\n" + strings.TrimSpace(line)
		default:
			k, v, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(k))
			fields[last] = strings.TrimSpace(v)
		}
	}
	flush()
	return all
}
