package facts

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
)

// maxLine bounds a line of a package manager's database. Longer ones are
// skipped: they are lists of files or of dependencies.
const maxLine = 64 << 10

// stanzas calls f with the fields of each paragraph of a file of "Name: value"
// lines. Only the first line of a field counts, and of a field that comes twice
// the last.
func stanzas(r io.Reader, f func(map[string]string)) {
	in := bufio.NewReaderSize(r, maxLine)
	fields := map[string]string{}
	flush := func() {
		if len(fields) > 0 {
			f(fields)
			fields = map[string]string{}
		}
	}
	for {
		line, long, err := in.ReadLine()
		for long && err == nil {
			line = nil
			_, long, err = in.ReadLine()
		}
		if err != nil {
			flush()
			return
		}
		name, value, ok := strings.Cut(string(line), ":")
		switch {
		case len(line) == 0:
			flush()
		case ok && name != "" && name[0] != ' ' && name[0] != '\t' && len(fields) < 100:
			fields[name] = strings.TrimSpace(value)
		}
	}
}

// dpkg reads the database of dpkg, and what Distroless has instead: a file for
// each package, with no status because all are installed.
func (t *tree) dpkg() {
	if f, ok := t.open("var/lib/dpkg/status", maxDatabase); ok {
		stanzas(f, func(p map[string]string) {
			if status := strings.Fields(p["Status"]); len(status) == 3 && status[2] == "installed" {
				t.add("dpkg", p["Package"], p["Version"])
			}
		})
		f.Close()
	}
	const parts = "var/lib/dpkg/status.d"
	d, err := t.root.Open(parts)
	if err != nil {
		return
	}
	defer d.Close()
	all, _ := d.ReadDir(maxPackages) // as many as there are
	for _, e := range all {
		if strings.HasSuffix(e.Name(), ".md5sums") || e.Type() != 0 {
			continue
		}
		if f, ok := t.open(parts+"/"+e.Name(), maxSmall); ok {
			stanzas(f, func(p map[string]string) { t.add("dpkg", p["Package"], p["Version"]) })
			f.Close()
		}
	}
}

// apk reads the database of Alpine's package manager, which has moved.
func (t *tree) apk() {
	for _, name := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		if f, ok := t.open(name, maxDatabase); ok {
			stanzas(f, func(p map[string]string) { t.add("apk", p["P"], p["V"]) })
			f.Close()
		}
	}
}

// pip reads the METADATA of a package of Python's.
func (t *tree) pip(name string) {
	f, ok := t.open(name, 4*maxSmall)
	if !ok {
		return
	}
	defer f.Close()
	first := true
	stanzas(f, func(p map[string]string) {
		if first { // what follows is the readme
			t.add("pip", p["Name"], p["Version"])
		}
		first = false
	})
}

// npm reads the package.json of a module.
func (t *tree) npm(name string) {
	text, ok := t.read(name, 4*maxSmall)
	if !ok {
		return
	}
	var p struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(text, &p); err == nil {
		t.add("npm", p.Name, p.Version)
	}
}
