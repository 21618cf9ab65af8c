package templates

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

const pipConf = "etc/pip.conf"

// indexSettings are those of pip's that say where packages come from.
var indexSettings = []string{"index-url", "extra-index-url", "trusted-host"}

// hostIndex returns the lines of a machine's /etc/pip.conf that say where
// packages of Python come from: what this machine needs in its network its
// sandboxes need. An address with a password is left out, because whoever has a
// sandbox could read it. host is its root folder.
func hostIndex(host fs.FS) ([]string, error) {
	b, err := fs.ReadFile(host, pipConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where packages of Python come from: %w", err)
	}
	var all []string
	global, goesOn := false, false // a value goes on in lines that are set in
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		line := strings.TrimRight(s.Text(), " \t\r")
		switch name, value, ok := strings.Cut(line, "="); {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";"):
		case strings.HasPrefix(line, "["):
			global, goesOn = line == "[global]", false
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			if goesOn && !telling(line) {
				all = append(all, line)
			}
		default:
			name = strings.ReplaceAll(strings.TrimSpace(name), "_", "-")
			if goesOn = ok && global && slices.Contains(indexSettings, name); goesOn && !telling(value) {
				all = append(all, name+" = "+strings.TrimSpace(value))
			}
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read where packages of Python come from: %w", err)
	}
	return all, nil
}

// telling reports whether an address has a user or a password in it.
func telling(value string) bool { return strings.Contains(value, "@") }

// ask has pip of a tree ask where lines of [hostIndex] say.
func ask(root *os.Root, index []string) error {
	if len(index) == 0 {
		return nil
	}
	b, err := root.ReadFile(pipConf) // [global] is all that is in it
	if err != nil {
		return err
	}
	return put(root, pipConf, append(b, strings.Join(index, "\n")+"\n"...))
}
