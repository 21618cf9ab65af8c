// Package payload holds the programs that soulbox carries inside itself, so
// that one file copied to another machine is a whole installation.
package payload

import (
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

//go:embed files
var files embed.FS

// Names of the programs.
const (
	Agent     = "soulbox-agent"
	Sentry    = "soulbox-sentry"
	Boot      = "soulbox-boot"
	Step      = "soulbox-step"
	Buildkitd = "soulbox-buildkitd"
	Runc      = "soulbox-runc" // not in every binary
)

// Has reports whether this binary was built with the program called name.
func Has(name string) bool {
	_, err := fs.Stat(files, "files/"+name+".gz")
	return err == nil
}

// Open returns the program called name. It is an error when this binary was
// built without it; the sentence says what to do.
func Open(name string) (io.ReadCloser, error) { return open(files, name) }

func open(files fs.FS, name string) (io.ReadCloser, error) {
	f, err := files.Open("files/" + name + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this soulbox was built without %s; build it with `make build`", name)
	}
	if err != nil {
		return nil, err
	}
	return gzip.NewReader(f)
}

// Unpack writes the program called name below dir, in a folder that is named
// after its content, and returns its path. A program that is there already is
// left alone, so that running sandboxes and other installations keep theirs.
// Every user can execute it.
func Unpack(name, dir string) (string, error) { return unpack(files, name, dir) }

func unpack(files fs.FS, name, dir string) (string, error) {
	hash := sha256.New()
	r, err := open(files, name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it holds public programs
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	prefix := "." + name + "-"
	sweep(filepath.Join(dir, prefix+"*"))
	temp, err := os.CreateTemp(dir, prefix+"*")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	defer func() { _ = os.Remove(temp.Name()) }() // renamed away on success
	_, err = io.Copy(io.MultiWriter(temp, hash), r)
	if err = errors.Join(err, temp.Chmod(0o755), temp.Sync(), temp.Close()); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	home := filepath.Join(dir, hex.EncodeToString(hash.Sum(nil))[:16])
	path := filepath.Join(home, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(home, 0o755); err != nil { //nolint:gosec // it holds public programs
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return path, nil
}

// unpackTime is longer than it takes to write any program.
const unpackTime = time.Hour

// sweep removes what a process left that was killed while it unpacked. One that
// stays costs space and nothing else.
func sweep(pattern string) {
	all, _ := filepath.Glob(pattern) // fails for bad patterns only
	for _, path := range all {
		if fi, err := os.Lstat(path); err == nil && time.Since(fi.ModTime()) > unpackTime {
			_ = os.Remove(path)
		}
	}
}
