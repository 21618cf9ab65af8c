package client

import (
	"context"
	"net/http"
)

// JupyterLab is how JupyterLab in a sandbox is reached: on a port of the sandbox,
// by whoever has the token. If the sandbox's ports are private, a browser cannot:
// it needs a proxy that adds the traffic token, as [Sandbox.Transport] does.
type JupyterLab struct {
	Port  int    `json:"port"`
	Token string `json:"token"`
	Path  string `json:"path"` // of the page to begin with
}

// StartLab starts JupyterLab in a sandbox, unless it runs there, and returns when
// it answers. The notebooks in it have the kernels that they have here.
func (n *Notebooks) StartLab(ctx context.Context, sandbox string) (*JupyterLab, error) {
	path, err := sandboxPath("/v1/sandboxes/", sandbox, "/jupyterlab")
	if err != nil {
		return nil, err
	}
	var out JupyterLab
	if _, err := n.c.work(ctx, path, struct{}{}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// StopLab ends JupyterLab in a sandbox, if it runs there. Kernels stay.
func (n *Notebooks) StopLab(ctx context.Context, sandbox string) error {
	path, err := sandboxPath("/v1/sandboxes/", sandbox, "/jupyterlab")
	if err != nil {
		return err
	}
	return n.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
}
