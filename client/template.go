package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/soulbox/soulbox"
)

// Templates builds, imports, lists and shares what sandboxes are made of. A
// template is named by its name, its id, or as NAMESPACE/NAME.
type Templates struct{ c *Client }

// A Template is what sandboxes are made of.
type Template struct {
	ID        string
	Name      string
	Public    bool
	CPUs      int // of its sandboxes, unless they ask otherwise
	Memory    soulbox.Bytes
	Disk      soulbox.Bytes
	Isolation soulbox.Isolation // also of its sandboxes, unless they ask otherwise
	Source    string            // where it came from, for people
	Starts    int64
	CreatedAt time.Time
	UpdatedAt time.Time

	House   bool            // the server's own
	Build   string          // the one that the tag "default" leads to; empty: none is ready
	Version soulbox.Version // of that
	Listing *Listing        // only of one that was searched for or asked for by name
	Tags    []soulbox.Tag   // only of one that was asked for by name
}

// ImportOptions say where a template comes from: exactly one of Image and
// Archive is set.
type ImportOptions struct {
	// Image is a reference to an OCI image, which the server pulls.
	Image string
	// Archive is a tar of a root file system, compressed or not.
	Archive io.Reader
	// Isolation is what its sandboxes have unless they ask otherwise. Nil: that
	// of the template in whose place it comes, else gVisor.
	Isolation *soulbox.Isolation
	// Progress, if not nil, is called with a sentence for people at each step.
	Progress func(string)
}

// Import makes a template of an image or an archive, in place of one of the
// same name. It takes as long as it takes.
func (t *Templates) Import(ctx context.Context, name string, o ImportOptions) (*Template, error) {
	if (o.Image == "") == (o.Archive == nil) {
		return nil, soulbox.Errorf(soulbox.Invalid, "a template is imported from either an image or an archive")
	}
	query := url.Values{"name": {name}}
	if o.Image != "" {
		query.Set("image", o.Image)
	}
	if o.Isolation != nil {
		query.Set("isolation", o.Isolation.String())
	}
	req, err := t.c.request(ctx, http.MethodPost, "/v1/templates/import", query, o.Archive)
	if err != nil {
		return nil, err
	}
	if o.Archive != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := t.c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, answerError(resp)
	}
	// Lines of one import are few and short; the bound is for what is not one.
	for lines := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)); ; {
		var line importLine
		switch err := lines.Decode(&line); {
		case ctx.Err() != nil:
			return nil, contextError(ctx, t.c.api)
		case errors.Is(err, io.EOF):
			return nil, soulbox.Errorf(soulbox.Unavailable, "import of template %s: the server hung up before it was done", name)
		case err != nil:
			return nil, unreachable(t.c.api, err)
		}
		switch {
		case line.Error != nil:
			return nil, line.Error.err()
		case line.Template != nil:
			return line.Template.template(), nil
		case o.Progress != nil && line.Progress != "":
			o.Progress(line.Progress)
		}
	}
}

// List returns the templates that the key may start.
func (t *Templates) List(ctx context.Context) ([]*Template, error) {
	var page templatesWire
	if err := t.c.call(ctx, http.MethodGet, "/v1/templates", nil, nil, &page); err != nil {
		return nil, err
	}
	list := make([]*Template, 0, len(page.Templates))
	for _, w := range page.Templates {
		list = append(list, w.template())
	}
	return list, nil
}

// SetIsolation changes what sandboxes of a template, by id or name, have unless
// they ask otherwise. Those that are there keep theirs.
func (t *Templates) SetIsolation(ctx context.Context, id string, class soulbox.Isolation) (*Template, error) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout) // an import may be packing
	defer cancel()
	var out templateWire
	path, err := templatePath(id, "")
	if err != nil {
		return nil, err
	}
	in := map[string]string{"isolation": class.String()}
	if _, err := t.c.exchange(ctx, http.MethodPatch, path, nil, in, &out); err != nil {
		return nil, err
	}
	return out.template(), nil
}

// Delete removes a template, by id or name. Sandboxes that were made of it go
// on.
func (t *Templates) Delete(ctx context.Context, id string) error {
	path, err := templatePath(id, "")
	if err != nil {
		return err
	}
	err = t.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
	return err
}

// importLine is one line of the answer to an import: any number of progress,
// then a template or an error.
type importLine struct {
	Progress string        `json:"progress"`
	Template *templateWire `json:"template"`
	Error    *errorWire    `json:"error"`
}

type templateWire struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Public    bool      `json:"public"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int64     `json:"memory_mib"`
	DiskMiB   int64     `json:"disk_mib"`
	Isolation string    `json:"isolation"`
	Source    string    `json:"source"`
	Starts    int64     `json:"starts"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	House   bool         `json:"house"`
	Build   string       `json:"build"`
	Version string       `json:"version"`
	Listing *listingWire `json:"listing"`
	Tags    []tagWire    `json:"tags"`
}

func (w templateWire) template() *Template {
	t := &Template{
		ID:        w.ID,
		Name:      w.Name,
		Public:    w.Public,
		CPUs:      w.CPUs,
		Memory:    soulbox.Bytes(w.MemoryMiB) * soulbox.MiB,
		Disk:      soulbox.Bytes(w.DiskMiB) * soulbox.MiB,
		Isolation: isolation(w.Isolation),
		Source:    w.Source,
		Starts:    w.Starts,
		CreatedAt: w.CreatedAt,
		UpdatedAt: w.UpdatedAt,
		House:     w.House,
		Build:     w.Build,
		Version:   versionOf(w.Version),
		Tags:      tagsOf(w.Tags),
	}
	if w.Listing != nil {
		t.Listing = new(Listing(*w.Listing))
	}
	return t
}
