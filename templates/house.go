package templates

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/soulbox/soulbox"
)

//go:embed code-interpreter-v1 data-science go httpbin machine-learning node python tensorflow
var house embed.FS

// House returns the templates that are built on base, by name.
func House() ([]soulbox.HouseTemplate, error) {
	entries, err := house.ReadDir(".")
	if err != nil {
		return nil, err
	}
	all := make([]soulbox.HouseTemplate, len(entries))
	for i, e := range entries {
		if all[i], err = read(house, e.Name()); err != nil {
			return nil, fmt.Errorf("read template %s: %w", e.Name(), err)
		}
	}
	return all, nil
}

// Choose returns those of the templates with the given names, each once.
func Choose(names []string) ([]soulbox.HouseTemplate, error) {
	all, err := House()
	if err != nil {
		return nil, err
	}
	var chosen []soulbox.HouseTemplate
	for i, name := range names {
		at := slices.IndexFunc(all, func(h soulbox.HouseTemplate) bool { return h.Name == name })
		if at < 0 {
			var known []string
			for _, h := range all {
				known = append(known, h.Name)
			}
			return nil, soulbox.Errorf(soulbox.Invalid, "%.80q is none of the templates %s", name, strings.Join(known, ", "))
		}
		if !slices.Contains(names[:i], name) {
			chosen = append(chosen, all[at])
		}
	}
	return chosen, nil
}

// Interpreted returns the names of the templates in which a code interpreter
// runs.
func Interpreted() ([]string, error) {
	all, err := House()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range all {
		if strings.Contains(h.Recipe.Start, "/.soulbox/agent interpreter") {
			names = append(names, h.Name)
		}
	}
	return names, nil
}

// about is what template.yaml says.
type about struct {
	Description string   `yaml:"description"`
	Categories  []string `yaml:"categories"`
	Keywords    []string `yaml:"keywords"`
	Licence     string   `yaml:"licence"` // of what it is about, as SPDX names it
	Start       string   `yaml:"start"`   // left running in every sandbox
	Ready       string   `yaml:"ready"`   // succeeds once that can be used
}

// read reads the folder of a template among those of all.
func read(all fs.FS, name string) (soulbox.HouseTemplate, error) {
	dockerfile, err := whole(all, name)
	if err != nil {
		return soulbox.HouseTemplate{}, err
	}
	var text [2]string
	for i, file := range []string{"README.md", "template.yaml"} {
		b, err := fs.ReadFile(all, path.Join(name, file))
		if err != nil {
			return soulbox.HouseTemplate{}, err
		}
		text[i] = string(b)
	}
	var a about
	in := yaml.NewDecoder(strings.NewReader(text[1]))
	in.KnownFields(true) // a misspelt one is not silently ignored
	if err := in.Decode(&a); err != nil {
		return soulbox.HouseTemplate{}, fmt.Errorf("template.yaml: %w", err)
	}
	return soulbox.HouseTemplate{
		Name:   name,
		Recipe: soulbox.Recipe{Dockerfile: dockerfile, Start: a.Start, Ready: a.Ready},
		Listing: soulbox.ListingChange{
			Description: &a.Description, Readme: &text[0], Licence: &a.Licence, Categories: &a.Categories, Keywords: &a.Keywords,
		},
	}, nil
}

// whole returns the Dockerfile of a template. One that is built on another of
// the house begins with that one's: it is built again when that changes, needs
// no build of it, and gets its steps from an earlier one if there was any.
func whole(all fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(all, path.Join(name, "Dockerfile"))
	if err != nil {
		return "", err
	}
	folder, err := fs.Sub(all, name)
	if err != nil {
		return "", err
	}
	dockerfile, err := inline(folder, string(b))
	if err != nil {
		return "", err
	}
	first, rest, _ := strings.Cut(dockerfile, "\n")
	other, ok := strings.CutPrefix(first, "FROM ")
	if !ok || other == "base" {
		return dockerfile, nil
	}
	under, err := whole(all, other)
	return under + rest, err
}

// copied is a line of a Dockerfile that copies one file of its folder.
var copied = regexp.MustCompile(`^COPY ([a-z0-9.-]+) (/\S+)$`)

// inline writes the files that a Dockerfile copies from its own folder into it.
// The text of a recipe is all that there is to it then: it is what is compared
// to see whether a template is up to date, and what people are shown.
func inline(folder fs.FS, dockerfile string) (string, error) {
	var whole strings.Builder
	for line := range strings.Lines(dockerfile) {
		m := copied.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			whole.WriteString(line)
			continue
		}
		b, err := fs.ReadFile(folder, m[1])
		if err != nil {
			return "", err
		}
		if !bytes.HasSuffix(b, []byte("\n")) || slices.Contains(strings.Split(string(b), "\n"), endOfFile) {
			return "", fmt.Errorf("%s cannot stand in a Dockerfile", m[1])
		}
		fmt.Fprintf(&whole, "COPY <<'%s' %s\n%s%s\n", endOfFile, m[2], b, endOfFile)
	}
	return whole.String(), nil
}

// endOfFile is a line that ends a file in a Dockerfile, and that no file has.
const endOfFile = "END-OF-FILE"
