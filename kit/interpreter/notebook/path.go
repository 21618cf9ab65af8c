package notebook

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	extension = ".ipynb"
	maxPart   = 255 // bytes, of a file's name
	maxPath   = 1024
)

// Clean returns the path of a notebook below the folder: with its extension,
// and without anything that leads elsewhere.
func Clean(name string) (string, error) {
	if name == "" {
		return "", invalid("A notebook needs a path")
	}
	if !strings.HasSuffix(name, extension) {
		name += extension
	}
	if len(name) > maxPath {
		return "", invalid("The notebook's path is longer than %d bytes", maxPath)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", invalid("The notebook's path has characters that no path may have")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return "", invalid("The notebook's path %s is not one below the home folder, such as analysis/first.ipynb", echo(mustJSON(name)))
		case len(part) > maxPart:
			return "", invalid("A part of the notebook's path is longer than %d bytes", maxPart)
		}
	}
	if strings.HasSuffix(name, "/"+extension) || name == extension {
		return "", invalid("A notebook needs a name before %s", extension)
	}
	return name, nil
}
