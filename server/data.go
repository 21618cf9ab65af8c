package server

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
)

// openData makes the data folder and returns the installation's secret, which
// it makes the first time.
func openData(dir string) (soulbox.TokenSeed, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return soulbox.TokenSeed{}, fmt.Errorf("open the data folder: %w", err)
	}
	// It may have existed with a looser mode; what it holds is secret.
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs x
		return soulbox.TokenSeed{}, fmt.Errorf("open the data folder: %w", err)
	}
	path := filepath.Join(dir, "seed")
	seed, err := readSeed(path)
	if !errors.Is(err, os.ErrNotExist) {
		return seed, err
	}
	_, _ = rand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	// Never half written: a torn secret would lock everybody out for good.
	temp, err := os.CreateTemp(dir, ".seed-*")
	if err != nil {
		return soulbox.TokenSeed{}, fmt.Errorf("open the data folder: %w", err)
	}
	defer func() { _ = os.Remove(temp.Name()) }() // its other name stays
	_, err = temp.Write(seed[:])
	if err = errors.Join(err, temp.Sync(), temp.Close()); err == nil {
		// Not renamed: of several first starts, only one may name the secret.
		err = os.Link(temp.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return readSeed(path)
	}
	if err != nil {
		return soulbox.TokenSeed{}, fmt.Errorf("open the data folder: %w", err)
	}
	return seed, nil
}

func readSeed(path string) (seed soulbox.TokenSeed, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return seed, fmt.Errorf("open the data folder: %w", err)
	}
	if len(b) != len(seed) {
		return seed, fmt.Errorf("open the data folder: %s has %d bytes, not %d; without it no sandbox that runs can be reached", path, len(b), len(seed))
	}
	copy(seed[:], b)
	return seed, nil
}
