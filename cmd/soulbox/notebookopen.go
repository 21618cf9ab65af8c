package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func notebookOpenCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "open [flags] SANDBOX [NOTEBOOK]",
		Short: "Open JupyterLab in a sandbox",
		Long: "Start JupyterLab in a sandbox and print its URL. A notebook that is run there and\n" +
			"here has one kernel. If the server has no domain for sandboxes, or this one has\n" +
			"private ports, JupyterLab is on a port of this machine until the command is\n" +
			"interrupted; the sandbox is kept alive for as long. JupyterLab itself stays.",
		Example:           "  soulbox notebook open i6k2… weather",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeNotebooks,
	}
	listen := cmd.Flags().String("listen", "127.0.0.1:0", "`ADDRESS` on this machine, if a browser cannot reach the sandbox; port 0 is a free one")
	quiet := cmd.Flags().Bool("no-browser", false, "print the URL only")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		box, err := api.Sandboxes.Connect(ctx, args[0], 0)
		if err != nil {
			return err
		}
		wait := c.progress("starting JupyterLab")
		lab, err := api.Notebooks.StartLab(ctx, box.ID)
		wait.stop()
		if err != nil {
			return err
		}
		notebook := ""
		if len(args) > 1 {
			notebook = args[1]
		}
		show := func(scheme, host string) error {
			at := labURL(scheme, host, lab, notebook)
			if !*quiet {
				c.browse(ctx, at)
			}
			return c.print("%s", at)
		}
		if box.Public() {
			return show("https", box.Host(lab.Port))
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", *listen)
		if err != nil {
			return soulbox.Errorf(soulbox.Invalid, "listen on %s: %w", *listen, err)
		}
		defer lease(ctx, api, box.ID)()
		if err := show("http", l.Addr().String()); err != nil {
			return err
		}
		return serveLab(ctx, l, box.Transport(lab.Port))
	})
	return cmd
}

// labURL returns where a browser finds a notebook, or JupyterLab's first page.
func labURL(scheme, host string, lab *client.JupyterLab, notebook string) string {
	u := url.URL{Scheme: scheme, Host: host, Path: lab.Path, RawQuery: url.Values{"token": {lab.Token}}.Encode()}
	if notebook = strings.TrimPrefix(notebook, "/"); notebook != "" {
		if !strings.HasSuffix(notebook, ".ipynb") {
			notebook += ".ipynb"
		}
		u.Path += "/tree/" + notebook
	}
	return u.String()
}

// browse opens a browser where there is a display. Whoever has none has the URL.
func (c *cli) browse(ctx context.Context, at string) {
	if !c.outTTY || c.getenv("DISPLAY") == "" && c.getenv("WAYLAND_DISPLAY") == "" {
		return
	}
	if cmd := exec.CommandContext(context.WithoutCancel(ctx), "xdg-open", at); cmd.Start() == nil {
		go func() { _ = cmd.Wait() }() // it ends when it has told the browser, or not
	}
}

// serveLab passes what comes to l on to JupyterLab until ctx ends.
func serveLab(ctx context.Context, l net.Listener, to http.RoundTripper) error {
	server := &http.Server{Handler: labProxy(l.Addr().String(), to), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // who is connected has been told to end
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return context.Cause(ctx)
}

// labProxy passes requests for our address on. JupyterLab sees another host than
// the browser, and trusts pages of its own only: so pages of others are refused
// here, whatever they call this address, and ours are not shown as strangers.
func labProxy(address string, to http.RoundTripper) http.Handler {
	_, port, _ := net.SplitHostPort(address) // it is a listener's
	own := func(host string) bool {
		name, p, err := net.SplitHostPort(host)
		ip := net.ParseIP(name)
		return err == nil && p == port && (host == address || name == "localhost" || ip != nil && ip.IsLoopback())
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "sandbox", ""
			r.Out.Header.Del("Origin")
			r.Out.Header.Del("Referer")
		},
		Transport:     to,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "JupyterLab cannot be reached; has the sandbox ended?", http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if !own(r.Host) || origin != "" && origin != "http://"+r.Host {
			http.Error(w, "This address is for JupyterLab's own pages", http.StatusForbidden)
			return
		}
		// Or net/http closes a body when its answer begins, and the transport,
		// if it has not seen the end of it yet, cuts that answer off.
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
		proxy.ServeHTTP(w, r)
	})
}
