package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func importCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import [flags] IMAGE|TAR|DIR NAME",
		Short: "Make a template of an OCI image, a tar or a folder",
		Long: "Make a template of a root file system: an OCI image that the server pulls, a tar\n" +
			"of this machine (- for standard input), or a folder of it, of which owners and\n" +
			"modes are kept. A template of the same name is replaced; its sandboxes go on.",
		Example: "  soulbox template import docker.io/library/python:3.13 python\n" +
			"  sudo soulbox template import ./rootfs mine",
		Args: wantArgs(2, 2),
	}
	var class string
	isolationFlag(cmd, &class, "of its sandboxes, unless they ask otherwise: gvisor or runc (default what the name had, else gvisor)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, name := args[0], args[1]
		asked, err := isolation(class)
		if err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		wait := c.progress("importing " + source)
		defer wait.stop()
		o := client.ImportOptions{Isolation: asked, Progress: func(s string) {
			if c.errTTY {
				wait.say(s)
				return
			}
			_, _ = fmt.Fprintln(c.err, clean(s)) // the import is what matters
		}}
		t, err := c.importFrom(cmd.Context(), api, source, name, o)
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			return c.json(newTemplateJSON(t))
		}
		return c.print("%s", clean(t.Name))
	}
	return cmd
}

// importFrom finds out what source is: what exists here is an archive or a
// folder, everything else an image, unless it is clearly written as a path.
func (c *cli) importFrom(ctx context.Context, api *client.Client, source, name string, o client.ImportOptions) (*client.Template, error) {
	if source == "-" {
		if c.inTTY {
			return nil, soulbox.Errorf(soulbox.Invalid, "there is no archive on standard input")
		}
		o.Archive = c.in
		return api.Templates.Import(ctx, name, o)
	}
	info, err := os.Stat(source)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(source, "/") && !strings.HasPrefix(source, "."):
		o.Image = source
		return api.Templates.Import(ctx, name, o)
	case err != nil:
		return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	case info.IsDir():
		var t *client.Template
		err := packed(source, packOptions{owners: true}, func(r io.Reader) (err error) {
			o.Archive = r
			t, err = api.Templates.Import(ctx, name, o)
			return err
		})
		return t, err
	default:
		f, err := os.Open(source)
		if err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		defer f.Close()
		o.Archive = f
		return api.Templates.Import(ctx, name, o)
	}
}
