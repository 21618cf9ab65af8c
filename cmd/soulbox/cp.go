package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func cpCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cp [flags] SOURCE DESTINATION",
		Short: "Copy files and folders into a sandbox or out of it",
		Long: "Copy a file or a folder into a sandbox or out of it. One side is ID:PATH, where a\n" +
			"path that is not absolute starts in the user's home; the other is a path here, or -\n" +
			"for standard input or output. A destination that is a folder gets the source in it.\n" +
			"Folders are copied by tar, which the sandbox must have.",
		Example: "  soulbox sandbox cp ./src i6k2…:work/\n" +
			"  soulbox sandbox cp i6k2…:/var/log/syslog - | tail",
		Args: wantArgs(2, 2),
	}
	user := cmd.Flags().StringP("user", "u", "", "user of the sandbox to read or write as (default the template's)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, to := parsePlace(args[0]), parsePlace(args[1])
		if (from.id == "") == (to.id == "") {
			return usagef(cmd, "one of source and destination is in a sandbox (ID:PATH), the other here")
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		box, err := api.Sandboxes.Connect(ctx, from.id+to.id, 0) // one of them is empty
		if err != nil {
			return err
		}
		if *user != "" {
			box = box.As(*user)
		}
		wait := c.progress("copying")
		defer wait.stop()
		if from.id == "" {
			return c.upload(ctx, box, from.path, to.path)
		}
		if to.path == "-" {
			wait.stop() // the output has the terminal for itself
		}
		return c.download(ctx, box, from.path, to.path)
	}
	return cmd
}

// A place is one side of a copy.
type place struct {
	id   string // empty: here
	path string // "-" here: standard input or output; empty in a sandbox: the user's home
}

// parsePlace reads one side of a copy. A file here whose name looks like ID:PATH
// is written with ./ before it.
func parsePlace(s string) place {
	id, p, ok := strings.Cut(s, ":")
	if !ok || !soulbox.SandboxID(id).Valid() {
		return place{path: s}
	}
	return place{id: id, path: p}
}

// upload copies from here to the sandbox.
func (c *cli) upload(ctx context.Context, box *client.Sandbox, from, to string) error {
	if from == "-" {
		if to == "" || strings.HasSuffix(to, "/") {
			return soulbox.Errorf(soulbox.Invalid, "standard input needs the name of a file to go to")
		}
		return box.WriteFile(ctx, to, c.in)
	}
	info, err := os.Stat(from)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	name, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	to, err = remoteTarget(ctx, box, to, filepath.Base(name))
	if err != nil {
		return err
	}
	if info.IsDir() {
		return uploadDir(ctx, box, from, to)
	}
	f, err := os.Open(from)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer f.Close()
	if err := box.WriteFile(ctx, to, f); err != nil {
		return err
	}
	const usual = 0o644 // what the sandbox gives a new file
	mode := info.Mode().Perm()
	if mode == usual || !info.Mode().IsRegular() {
		return nil
	}
	_, err = box.Exec(ctx, []string{"chmod", strconv.FormatUint(uint64(mode), 8), "--", to}, client.RunOptions{})
	if err != nil {
		return fmt.Errorf("set the mode of %s: %w", to, toolError("chmod", err))
	}
	return nil
}

// remoteTarget returns where in the sandbox something called name goes.
func remoteTarget(ctx context.Context, box *client.Sandbox, to, name string) (string, error) {
	if to == "" || strings.HasSuffix(to, "/") {
		return to + name, nil
	}
	e, err := box.Stat(ctx, to)
	switch {
	case err == nil && e.Dir:
		return path.Join(to, name), nil
	case err == nil || soulbox.KindOf(err) == soulbox.NotFound:
		// If it is the sandbox that is not there, the next step says so.
		return to, nil
	default:
		return "", err
	}
}

func uploadDir(ctx context.Context, box *client.Sandbox, from, to string) error {
	if err := box.MakeDir(ctx, to); err != nil && soulbox.KindOf(err) != soulbox.Conflict {
		return err
	}
	return packed(from, packOptions{}, func(r io.Reader) error {
		_, err := box.Exec(ctx, []string{"tar", "-x", "-f", "-", "-C", to}, client.RunOptions{Stdin: r})
		return toolError("tar", err)
	})
}

// download copies from the sandbox to here.
func (c *cli) download(ctx context.Context, box *client.Sandbox, from, to string) error {
	if from == "" {
		from = "."
	}
	if to == "-" {
		_, err := box.ReadFile(ctx, from, c.out)
		return err
	}
	e, err := box.Stat(ctx, from)
	if err != nil {
		return err
	}
	// The name is taken from what our user wrote, not from what the sandbox says.
	to, err = localTarget(to, path.Base(path.Clean("/"+from)))
	if err != nil {
		return err
	}
	if e.Dir {
		return c.downloadDir(ctx, box, from, to)
	}
	return downloadFile(ctx, box, from, to, fs.FileMode(e.Mode)&fs.ModePerm)
}

// localTarget returns where here something called name goes.
func localTarget(to, name string) (string, error) {
	info, err := os.Stat(to)
	switch {
	case err == nil && info.IsDir():
		if name == "/" {
			return to, nil // a whole root, or home, goes right into the folder
		}
		return filepath.Join(to, name), nil
	case err == nil || errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(to, "/"):
		return to, nil
	default:
		return "", soulbox.Errorf(soulbox.Invalid, "%s is not a folder", to)
	}
}

// downloadFile writes beside the target and puts it in place when all of it is
// there.
func downloadFile(ctx context.Context, box *client.Sandbox, from, to string, mode fs.FileMode) (err error) {
	if info, err := os.Stat(to); err == nil && !info.Mode().IsRegular() { // a pipe, or /dev/null
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		_, err = box.ReadFile(ctx, from, f)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".soulbox-*")
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error at hand is the one that matters
		}
	}()
	_, err = box.ReadFile(ctx, from, f)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), to)
}

func (c *cli) downloadDir(ctx context.Context, box *client.Sandbox, from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // G301: as cp and mkdir do
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := unpack(r, to, func(s string) {
			_, _ = fmt.Fprintf(c.err, "soulbox: %s\n", clean(s)) // a note; the copy goes on
		})
		if err == nil {
			_, err = io.Copy(io.Discard, r) // tar pads its archives
		}
		_ = r.CloseWithError(err) // never fails
		done <- err
	}()
	_, err := box.Exec(ctx, []string{"tar", "-c", "-f", "-", "-C", from, "."}, client.RunOptions{Stdout: w})
	err = toolError("tar", err)
	_ = w.CloseWithError(err) // ends unpack; nil is the end of the archive
	unpackErr := <-done
	if err != nil && !errors.Is(err, unpackErr) {
		return err
	}
	return unpackErr
}

// toolError words what became of a tool that we ran in a sandbox.
func toolError(tool string, err error) error {
	exit, ok := errors.AsType[*client.ExitError](err)
	if !ok {
		return err
	}
	const notFound = 127 // as shells say it
	if exit.Code == notFound {
		return soulbox.Errorf(soulbox.Invalid, "the sandbox has no %s, which this needs", tool)
	}
	said := bytes.TrimSpace([]byte(exit.Stderr))
	if len(said) == 0 {
		said = []byte(exit.Error())
	}
	return soulbox.Errorf(soulbox.Invalid, "%s in the sandbox: %.500s", tool, said)
}
