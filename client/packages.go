package client

import (
	"context"
	"iter"
	"net/http"
	"strings"
	"time"
)

// Packages are those of Python, in environments of sandboxes with a code
// interpreter. The environment "default" is that of its Python context; others
// come into being when something is installed in them, and their names are
// languages of contexts and notebooks from then on.
type Packages struct{ c *Client }

// DefaultEnvironment is the Python of the default context.
const DefaultEnvironment = "default"

// An Environment is a Python with packages of its own.
type Environment struct {
	Name     string `json:"name"`
	Python   string `json:"python"` // its version
	Path     string `json:"path"`
	Packages int    `json:"packages"`
}

// A Package is one that is installed.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Was     string `json:"was"` // the version before; of what was just installed
}

// InstallOptions say what is installed.
type InstallOptions struct {
	Packages     []string // as pip knows them: numpy, pandas==2.3
	Requirements string   // the text of a requirements file
	IndexURL     string   // empty: what the sandbox's pip is set to
	Upgrade      bool     // also what is there already
	Timeout      time.Duration
}

// A PackageEvent is something that happens while packages are installed or
// removed.
type PackageEvent struct {
	Type      string    `json:"type"` // progress, and last done
	Step      string    `json:"step"` // resolve, download, install, verify or rollback
	Package   string    `json:"package"`
	Done      int       `json:"done"` // of total, in this step
	Total     int       `json:"total"`
	Text      string    `json:"text"`
	Installed []Package `json:"installed"` // of done
	Removed   []Package `json:"removed"`   // of done
	Seconds   float64   `json:"seconds"`   // of done
}

// path returns the path of a request about an environment.
func (p *Packages) path(sandbox, environment, rest string) (string, error) {
	if environment == "" {
		environment = DefaultEnvironment
	}
	return sandboxPath("/v1/sandboxes/", sandbox, "/environments/"+segment(environment)+rest)
}

// Environments returns the environments of a sandbox.
func (p *Packages) Environments(ctx context.Context, sandbox string) ([]Environment, error) {
	path, err := sandboxPath("/v1/sandboxes/", sandbox, "/environments")
	if err != nil {
		return nil, err
	}
	var out struct {
		Environments []Environment `json:"environments"`
	}
	err = p.c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out.Environments, err
}

// RemoveEnvironment removes an environment with all that is in it. The default
// one stays.
func (p *Packages) RemoveEnvironment(ctx context.Context, sandbox, environment string) error {
	path, err := p.path(sandbox, environment, "")
	if err != nil {
		return err
	}
	return p.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
}

// List returns what is installed in an environment.
func (p *Packages) List(ctx context.Context, sandbox, environment string) ([]Package, error) {
	path, err := p.path(sandbox, environment, "/packages")
	if err != nil {
		return nil, err
	}
	var out struct {
		Packages []Package `json:"packages"`
	}
	err = p.c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out.Packages, err
}

// Freeze returns what is installed in an environment as the text of a
// requirements file.
func (p *Packages) Freeze(ctx context.Context, sandbox, environment string) (string, error) {
	path, err := p.path(sandbox, environment, "/freeze")
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = p.c.fetch(ctx, path, nil, &text)
	return text.String(), err
}

// Install installs packages and returns what happens, as it happens. When one
// cannot be installed, or they do not go together, the environment is as it was
// and the error says why.
func (p *Packages) Install(ctx context.Context, sandbox, environment string, o InstallOptions) iter.Seq2[PackageEvent, error] {
	in := map[string]any{"packages": append([]string{}, o.Packages...), "upgrade": o.Upgrade}
	if o.Requirements != "" {
		in["requirements"] = o.Requirements
	}
	if o.IndexURL != "" {
		in["index_url"] = o.IndexURL
	}
	if o.Timeout > 0 {
		in["timeout_seconds"] = o.Timeout.Seconds()
	}
	return p.change(ctx, http.MethodPost, sandbox, environment, in)
}

// Remove removes packages, as [Packages.Install] installs them.
func (p *Packages) Remove(ctx context.Context, sandbox, environment string, names ...string) iter.Seq2[PackageEvent, error] {
	return p.change(ctx, http.MethodDelete, sandbox, environment, map[string]any{"packages": append([]string{}, names...)})
}

func (p *Packages) change(ctx context.Context, method, sandbox, environment string, in any) iter.Seq2[PackageEvent, error] {
	path, err := p.path(sandbox, environment, "/packages")
	if err != nil {
		return func(yield func(PackageEvent, error) bool) { yield(PackageEvent{}, err) }
	}
	return lines[PackageEvent](ctx, p.c, method, path, in, "done")
}
