package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func buildCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build [flags] [DIR]",
		Short: "Build a template of a Dockerfile and the folder beside it",
		Long: "Build a template, or a new version of it, of a Dockerfile and the folder that it copies\n" +
			"from, which is the current one unless DIR names another. What .dockerignore names is\n" +
			"left out. The id of the build is printed once the server has everything; with --watch,\n" +
			"what it does is shown until it is over, and NAME@VERSION is printed then. Ctrl-C\n" +
			"cancels a build that is watched.",
		Example: "  soulbox template build -t hello --start 'python3 server.py' --ready 'curl -sf localhost:8000' --watch\n" +
			"  soulbox template build ./api -t api:next -f docker/Dockerfile --build-arg VERSION=2 --bump minor\n" +
			"  soulbox template build -t api --secret id=npm,src=$HOME/.npmrc --login ghcr.io",
		Args: wantArgs(0, 1),
	}
	var o ordered
	o.flags(cmd)
	watch := cmd.Flags().BoolP("watch", "w", false, "show what it does, and wait until it is over")
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		name, options, err := o.options(c, args)
		if err != nil {
			return err
		}
		wait := c.progress("sending " + options.Dir)
		defer wait.stop()
		started, err := api.Templates.Build(ctx, name, options)
		if err != nil {
			return err
		}
		wait.stop()
		c.problems("Dockerfile", started.Problems)
		switch {
		case *watch:
			return c.watchBuild(ctx, api, started, *asJSON)
		case *asJSON:
			return c.json(newBuildJSON(started.Build))
		default:
			return c.print("%s", started.Build.ID)
		}
	})
	return cmd
}

// ordered are the flags that say what to build.
type ordered struct {
	tags       []string
	file       string
	start      string
	ready      string
	bump       string
	target     string
	isolation  string
	visibility string
	args       []string
	secrets    []string
	logins     []string
	noCache    bool
	cpus       int
	memory     int
	disk       int
}

func (o *ordered) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "what it is called, `NAME[:TAG]`; may be repeated with other tags")
	f.StringVarP(&o.file, "file", "f", "", "the Dockerfile (default DIR/Dockerfile)")
	f.StringVar(&o.start, "start", "", "`COMMAND` that is left running in every sandbox, and runs already when one is made")
	f.StringVar(&o.ready, "ready", "", "`COMMAND` that succeeds once what --start starts can be used")
	f.StringVar(&o.bump, "bump", "", "how far it is from the version before: major, minor or patch (default what has changed says)")
	f.StringArrayVar(&o.args, "build-arg", nil, "value of an ARG, `NAME=VALUE`; without a value that of the environment; may be repeated")
	f.StringVar(&o.target, "target", "", "the stage to build (default the last)")
	f.StringArrayVar(&o.secrets, "secret", nil, "for RUN --mount=type=secret, `id=ID,src=FILE` or id=ID,env=NAME; may be repeated")
	f.StringArrayVar(&o.logins, "login", nil, "`HOST` of a registry to which docker has logged in; may be repeated")
	f.BoolVar(&o.noCache, "no-cache", false, "build every step, whatever is known from earlier builds")
	f.IntVar(&o.cpus, "cpus", 0, "of its sandboxes (default as before)")
	f.IntVar(&o.memory, "memory", 0, "`MIB` of memory of its sandboxes (default as before)")
	f.IntVar(&o.disk, "disk", 0, "`MIB` of disk of its sandboxes (default as before)")
	isolationFlag(cmd, &o.isolation, "of its sandboxes, unless they ask otherwise: gvisor or runc (default as before, else gvisor)")
	f.StringVar(&o.visibility, "visibility", "", "who may start it from now on: private, team or public (default as before)")
	_ = cmd.RegisterFlagCompletionFunc("bump", completeWords("major", "minor", "patch"))         // the flag exists
	_ = cmd.RegisterFlagCompletionFunc("visibility", completeWords("private", "team", "public")) // as above
	_ = cmd.RegisterFlagCompletionFunc("start", cobra.NoFileCompletions)                         // as above
	_ = cmd.RegisterFlagCompletionFunc("ready", cobra.NoFileCompletions)                         // as above
	_ = cmd.RegisterFlagCompletionFunc("target", cobra.NoFileCompletions)                        // as above
	_ = cmd.RegisterFlagCompletionFunc("build-arg", cobra.NoFileCompletions)                     // as above
}

// options returns the name of the template and what else the flags say.
func (o *ordered) options(c *cli, args []string) (string, client.BuildOptions, error) {
	b := client.BuildOptions{
		Dir: ".", Dockerfile: o.file, Start: o.start, Ready: o.ready, Target: o.target, NoCache: o.noCache,
		CPUs: o.cpus, Memory: soulbox.Bytes(o.memory) * soulbox.MiB, Disk: soulbox.Bytes(o.disk) * soulbox.MiB,
	}
	if len(args) > 0 {
		b.Dir = args[0]
	}
	name, err := o.name(&b)
	if err != nil {
		return "", b, err
	}
	if b.Bump, err = soulbox.ParseBump(o.bump); err != nil {
		return "", b, err
	}
	if b.Isolation, err = isolation(o.isolation); err != nil {
		return "", b, err
	}
	switch o.visibility {
	case "":
	case "private", "team":
		b.Public = new(false)
	case "public":
		b.Public = new(true)
	default:
		return "", b, soulbox.Errorf(soulbox.Invalid, "--visibility is private, team or public, not %.80q", o.visibility)
	}
	if b.Args, err = o.buildArgs(c); err != nil {
		return "", b, err
	}
	if b.Secrets, err = o.readSecrets(c); err != nil {
		return "", b, err
	}
	b.Logins, err = o.readLogins(c)
	return name, b, err
}

// name reads the flags -t, which have one name and any number of tags.
func (o *ordered) name(b *client.BuildOptions) (string, error) {
	name := ""
	for _, s := range o.tags {
		ref, err := soulbox.ParseTemplateRef(s)
		switch {
		case err != nil:
			return "", err
		case name != "" && name != ref.Name:
			return "", soulbox.Errorf(soulbox.Invalid, "-t has two names, %s and %s; one build has one", name, ref.Name)
		case ref.Namespace != "" || ref.Versions.String() != "":
			return "", soulbox.Errorf(soulbox.Invalid, "-t %s: a build is called NAME or NAME:TAG; it gets its version when it is ready", s)
		}
		if name = ref.Name; ref.Tag != "" {
			b.Tags = append(b.Tags, ref.Tag)
		}
	}
	if name == "" {
		return "", soulbox.Errorf(soulbox.Invalid, "-t is missing: what it is called")
	}
	return name, nil
}

func (o *ordered) buildArgs(c *cli) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range o.args {
		name, value, ok := strings.Cut(s, "=")
		if name == "" {
			return nil, soulbox.Errorf(soulbox.Invalid, "--build-arg %q is not of the form name=value", s)
		}
		if !ok {
			value = c.getenv(name)
		}
		m[name] = value
	}
	return m, nil
}

// readSecrets reads flags as docker build has them.
func (o *ordered) readSecrets(c *cli) (map[string][]byte, error) {
	m := map[string][]byte{}
	for _, s := range o.secrets {
		said := map[string]string{}
		for part := range strings.SplitSeq(s, ",") {
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				return nil, soulbox.Errorf(soulbox.Invalid, "--secret %q is not of the form id=ID,src=FILE", s)
			}
			said[name] = value
		}
		id, file, variable := said["id"], said["src"], said["env"]
		if file == "" {
			file = said["source"]
		}
		switch {
		case id == "" || file != "" && variable != "":
			return nil, soulbox.Errorf(soulbox.Invalid, "--secret %q needs an id, and either src or env", s)
		case file == "" && variable == "":
			return nil, soulbox.Errorf(soulbox.Invalid, "--secret %q does not say where it is: src=FILE or env=NAME", s)
		case file != "":
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, soulbox.Errorf(soulbox.Invalid, "--secret %s: %w", id, err)
			}
			m[id] = b
		default:
			m[id] = []byte(c.getenv(variable))
		}
	}
	return m, nil
}

// readLogins finds out who docker is at registries.
func (o *ordered) readLogins(c *cli) (map[string]soulbox.Login, error) {
	if len(o.logins) == 0 {
		return nil, nil
	}
	dir := c.getenv("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(c.getenv("HOME"), ".docker")
	}
	file := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	var config struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err == nil {
		if err := json.Unmarshal(b, &config); err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%s is not JSON: %w", file, err)
		}
	}
	m := map[string]soulbox.Login{}
	for _, host := range o.logins {
		key := host
		if host == "docker.io" {
			key = "https://index.docker.io/v1/" // what docker calls it
		}
		plain, err := base64.StdEncoding.DecodeString(config.Auths[key].Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok || user == "" {
			return nil, hint(soulbox.Errorf(soulbox.Invalid, "--login %s: %s has no password for it", host, file), "`docker login "+host+"` puts one there, unless docker uses a credential helper")
		}
		m[host] = soulbox.Login{User: user, Password: password}
	}
	return m, nil
}

// problems tells what is the matter with a Dockerfile, on standard error.
func (c *cli) problems(file string, list []soulbox.Problem) {
	for _, p := range list {
		_, _ = fmt.Fprintln(c.err, c.problem(file, p)) // the build is what matters
	}
}

// problem words one as compilers do.
func (c *cli) problem(file string, p soulbox.Problem) string {
	s := file
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	s += ": " + severity(p) + ": " + p.Message
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	if p.Rule != "" {
		s += " (" + p.Rule + ")"
	}
	return clean(s)
}

func severity(p soulbox.Problem) string {
	if p.Fatal {
		return "error"
	}
	return "warning"
}

// watchBuild shows what a build does until it is over, and prints what came of it.
func (c *cli) watchBuild(ctx context.Context, api *client.Client, started *client.StartedBuild, asJSON bool) error {
	template, id, name := started.Template.ID, string(started.Build.ID), started.Template.Name
	show := c.newShow(name, asJSON)
	b, err := c.follow(ctx, api, template, id, show)
	show.end(b)
	if by, ok := errors.AsType[interrupted](err); ok && by.signal == syscall.SIGINT {
		// ctx has ended, and whoever pressed Ctrl-C waits.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, err := api.Templates.CancelBuild(ctx, template, id); err != nil && soulbox.KindOf(err) != soulbox.Conflict {
			_, _ = fmt.Fprintf(c.err, "soulbox: build %s may go on: %s\n", id, clean(err.Error())) // there is nowhere else to say it
		}
	}
	switch {
	case err != nil:
		return err
	case b.Failure != nil:
		return hint(fmt.Errorf("template %s was not built: %s%s", name, stepOf(b.Failure), b.Failure.Message), "`soulbox template logs "+name+" "+id+"` has all of its log")
	case asJSON:
		return nil // the last line was the build
	default:
		return c.print("%s@%s", clean(name), b.Version)
	}
}

// stepOf says where a build failed.
func stepOf(f *soulbox.BuildFailure) string {
	switch {
	case f.Finish:
		return "after its last step: "
	case f.Step > 0:
		return fmt.Sprintf("step %d: ", f.Step)
	default:
		return ""
	}
}

// follow gives a show all that a build tells, and returns it when it is over.
func (c *cli) follow(ctx context.Context, api *client.Client, template, id string, show buildShow) (*soulbox.Build, error) {
	o := client.EventsOptions{Follow: true, Lost: func(err error, _ time.Duration) { show.lost(err) }}
	for e, err := range api.Templates.Watch(ctx, template, id, o) {
		switch {
		case err != nil:
			return nil, err
		case e.Build != nil:
			return e.Build, nil
		}
		if err := show.line(e.Number, e.Line); err != nil {
			return nil, err
		}
	}
	return nil, soulbox.Errorf(soulbox.Unavailable, "the server stopped telling before the build was over")
}

// buildJSON is a build as --json prints it.
type buildJSON struct {
	ID        soulbox.BuildID    `json:"id"`
	Template  soulbox.TemplateID `json:"template"`
	State     soulbox.BuildState `json:"state"`
	Tags      []string           `json:"tags"`
	Bump      soulbox.Bump       `json:"bump,omitempty"`
	Version   string             `json:"version,omitempty"`
	CreatedAt time.Time          `json:"created_at"`
	StartedAt time.Time          `json:"started_at,omitzero"`
	EndedAt   time.Time          `json:"ended_at,omitzero"`
	Failure   string             `json:"failure,omitempty"`
}

func newBuildJSON(b *soulbox.Build) buildJSON {
	j := buildJSON{
		ID: b.ID, Template: b.Template, State: b.State, Tags: b.Tags, Bump: b.Bump, CreatedAt: b.CreatedAt, StartedAt: b.StartedAt, EndedAt: b.EndedAt,
	}
	if !b.Version.IsZero() {
		j.Version = b.Version.String()
	}
	if b.Failure != nil {
		j.Failure = stepOf(b.Failure) + b.Failure.Message
	}
	return j
}

// buildLineJSON is a line of a build as --json prints it.
type buildLineJSON struct {
	Number  uint64    `json:"number,omitempty"`
	At      time.Time `json:"time"`
	Level   string    `json:"level"`
	Step    string    `json:"step,omitempty"`
	Message string    `json:"message"`
}
