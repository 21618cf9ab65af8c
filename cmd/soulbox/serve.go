package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/server"
)

// serveCommand is `soulbox serve`.
func serveCommand(c *cli) *cobra.Command {
	var flags server.Config
	var configFile, logFormat string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: "Runs the server until it gets SIGTERM or Ctrl-C. Sandboxes go on without it, and\n" +
			"the next start finds them again. The first start makes the data folder, the\n" +
			"default team with a key for this machine, and the base template.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config(cmd, flags, configFile)
			if err != nil {
				return err
			}
			log, err := newLog(c.err, c.errTTY, logFormat, verbose)
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), log, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.Listen, "listen", server.DefaultListen, "`address` for clients")
	f.StringVar(&flags.Database, "database", "sqlite", "sqlite, or a postgres:// `URL`")
	f.StringVar(&flags.Metrics, "metrics", "", "`address` for Prometheus, or off (default 127.0.0.1:7071)")
	f.StringVar(&flags.Domain, "domain", "", "`name` under which <port>-<sandbox>.<name> leads here; clients are told")
	f.StringVar(&flags.Base, "base", "", "OCI `image` of the base template (default: made of Debian's packages)")
	f.StringSliceVar(&flags.Templates, "templates", nil, "further `names` of templates of the house that are built and kept built: code-interpreter-v1, data-science, go, httpbin, machine-learning, node, python, tensorflow")
	f.StringVar(&configFile, "config", "", "YAML `file` with these and further settings; flags win")
	f.StringVar(&logFormat, "log", "", "text or json (default text on a terminal)")
	f.BoolVarP(&verbose, "verbose", "v", false, "log every request")
	return cmd
}

// config joins what the file and the flags say.
func (c *cli) config(cmd *cobra.Command, flags server.Config, path string) (server.Config, error) {
	cfg := server.Config{}
	if path != "" {
		k := koanf.New(".")
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return cfg, soulbox.Errorf(soulbox.Invalid, "configuration %s: %w", path, err)
		}
		err := k.UnmarshalWithConf("", &cfg, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
			Result: &cfg, TagName: "koanf", ErrorUnused: true, // a misspelt setting is not silently ignored
		}})
		if err != nil {
			return cfg, soulbox.Errorf(soulbox.Invalid, "configuration %s: %w", path, err)
		}
	}
	for name, set := range map[string]func(){
		"listen":    func() { cfg.Listen = flags.Listen },
		"database":  func() { cfg.Database = flags.Database },
		"metrics":   func() { cfg.Metrics = flags.Metrics },
		"domain":    func() { cfg.Domain = flags.Domain },
		"base":      func() { cfg.Base = flags.Base },
		"templates": func() { cfg.Templates = flags.Templates },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
	if c.data != "" || cfg.Data == "" {
		cfg.Data = c.dataFolder()
	}
	cfg.Version = version()
	cfg.Fault = c.getenv("SOULBOX_FAULT")
	return cfg, nil
}

// serve runs a server until ctx ends.
func (c *cli) serve(ctx context.Context, log *slog.Logger, cfg server.Config) (err error) {
	if os.Geteuid() != 0 {
		return hint(soulbox.Errorf(soulbox.Forbidden, "the server makes network namespaces and cgroups, which only root may"),
			"run `sudo soulbox serve`")
	}
	// Go's HTTP client writes to the standard logger what a server sends that
	// nobody asked for, and sandboxes are such servers.
	slog.SetDefault(log)
	// The driver replaces the standard files, so ours are used from here on.
	out := c.err
	s, err := server.Open(ctx, log, cfg, func(line string) { fmt.Fprintln(out, line) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := c.introduce(ctx, s, cfg.Data); err != nil {
		return err
	}
	fmt.Fprintf(out, "SoulBox listens on %s. For clients: eval \"$(soulbox env)\"\n", s.URL())
	return s.Wait(ctx)
}

// introduce makes sure that the operator of this machine has a key and knows
// where the server is.
func (c *cli) introduce(ctx context.Context, s *server.Server, data string) error {
	have, err := readCredentials(data)
	if soulbox.KindOf(err) == soulbox.Unavailable { // there is none yet
		have.APIKey, err = s.NewKey(ctx, "operator of this machine")
	}
	if err != nil {
		return err
	}
	if have.APIURL == s.URL() {
		return nil
	}
	have.APIURL = s.URL()
	return writeCredentials(data, have)
}

// newLog returns the server's log, on w.
func newLog(w io.Writer, terminal bool, format string, verbose bool) (*slog.Logger, error) {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if format == "" {
		format = "json"
		if terminal {
			format = "text"
		}
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, soulbox.Errorf(soulbox.Invalid, "--log is text or json, not %q", format)
}
