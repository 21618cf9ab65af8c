package main

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
)

// starters has a folder for each starter, with the files that it writes. What is
// called *.starter loses that: it would be source of this program otherwise.
//
//go:embed starter
var starters embed.FS

func initCommand(c *cli) *cobra.Command {
	names := starterNames()
	cmd := &cobra.Command{
		Use:   "init [flags] [DIR]",
		Short: "Write a Dockerfile to begin with, and what goes with it, into a folder",
		Long: "Write a Dockerfile to begin with, a small program and a README that says how to build\n" +
			"it, into the current folder or DIR. Files that are there already are never overwritten:\n" +
			"then nothing is written. Starters: " + strings.Join(names, ", ") + ".",
		Args: wantArgs(0, 1),
	}
	name := cmd.Flags().String("starter", names[len(names)-1], "which: "+strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("starter", completeWords(names...)) // the flag exists
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		dir := "."
		if len(args) > 0 {
			dir = args[0]
		}
		if !slices.Contains(names, *name) {
			return soulbox.Errorf(soulbox.Invalid, "--starter is one of %s, not %.80q", strings.Join(names, ", "), *name)
		}
		written, err := writeStarter(path.Join("starter", *name), dir)
		if err != nil {
			return err
		}
		for _, file := range written {
			if err := c.print("%s", clean(file)); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// starterNames returns which there are.
func starterNames() []string {
	entries, err := starters.ReadDir("starter")
	if err != nil {
		return nil // it is in the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// writeStarter copies a starter into dir, all of it or nothing, and returns the
// names of the files.
func writeStarter(from, dir string) ([]string, error) {
	entries, err := starters.ReadDir(from)
	if err != nil {
		return nil, err
	}
	target := func(e fs.DirEntry) string { return filepath.Join(dir, strings.TrimSuffix(e.Name(), ".starter")) }
	for _, e := range entries {
		name := target(e)
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return nil, soulbox.Errorf(soulbox.Conflict, "%s is there already; nothing was written", name)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // G301: as mkdir does
		return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	var written []string
	for _, e := range entries {
		text, err := starters.ReadFile(path.Join(from, e.Name()))
		if err != nil {
			return nil, err
		}
		name := target(e)
		// Should one have appeared meanwhile, it stays as well.
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // G302: as editors do
		if err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		if _, err := f.Write(text); err != nil {
			return nil, errors.Join(soulbox.Errorf(soulbox.Invalid, "%w", err), f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		written = append(written, name)
	}
	return written, nil
}
