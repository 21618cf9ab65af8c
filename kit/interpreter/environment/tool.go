package environment

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unknown is the version of a package before it is built.
const unknown = "?"

// item is a package that a change brings.
type item struct {
	name, version, url string // the last when it does not come from an index
}

// line writes it as a requirement.
func (i *item) line() string {
	if i.url != "" {
		return i.name + " @ " + i.url
	}
	return i.name + "==" + i.version
}

// heard is what a line of an installer's output says about a package.
type heard struct {
	what string // "found", "begins" or "has" (it is downloaded or built)
	name string
}

// tool is an installer.
type tool interface {
	// resolve returns what is to be installed so that the requirements in a file
	// are met.
	resolve(ctx context.Context, r *request) ([]item, error)
	// stage unpacks the requirements in a file in a folder, without what they need.
	stage(ctx context.Context, r *request, dir string) error
	// check returns what is not whole, a line each.
	check(ctx context.Context, e *env) ([]string, error)
}

// request is what an installer is asked for.
type request struct {
	env    *env
	file   string // of requirements
	hashes bool   // the file has hashes, which must be right
	index  string
	more   []string // arguments
	hear   func(text string, h heard)
}

var errNoTool = errors.New("neither uv nor pip is installed in this sandbox")

// tool returns uv, or pip if there is no uv.
func (s *Set) tool(ctx context.Context) (tool, error) {
	python, err := s.options.Python()
	if err != nil {
		return nil, refuse(Conflict, "there is no Python in this sandbox: %v", err)
	}
	p := &pip{s, python}
	folders := []string{filepath.Dir(python)}
	for _, e := range s.options.Env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			folders = append(folders, filepath.SplitList(value)...)
		}
	}
	for _, dir := range folders {
		if program, err := exec.LookPath(filepath.Join(dir, "uv")); err == nil && filepath.IsAbs(program) {
			return &uv{s, program, p.settings(ctx)}, nil
		}
	}
	if s.command(ctx, python, "-m", "pip", "--version").Run() != nil {
		return nil, refuse(Conflict, "%v", errNoTool)
	}
	return p, nil
}

// work runs an installer to its end.
func work(ctx context.Context, cmd *exec.Cmd, hear func(string)) ([]string, error) {
	out := &output{line: hear}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		text := out.last()
		if text == "" {
			text = err.Error()
		}
		return out.lines(), &FailureError{Text: text, RolledBack: true}
	}
	return out.lines(), nil
}

// uv is Astral's installer. It downloads in parallel.
type uv struct {
	set      *Set
	program  string
	settings []string // pip's, in its words
}

func (u *uv) install(ctx context.Context, r *request, more ...string) ([]string, error) {
	args := []string{"pip", "install", "--python", r.env.python, "--break-system-packages", "-r", r.file}
	args = append(args, more...)
	args = append(args, u.settings...)
	if r.index != "" {
		args = append(without(args, "--default-index"), "--default-index", r.index)
	}
	if r.hashes {
		args = append(args, "--require-hashes")
	}
	return work(ctx, u.set.command(ctx, u.program, args...), func(text string) { r.hear(text, uvHeard(text)) })
}

// without leaves an option and its value out.
func without(args []string, option string) []string {
	if i := slices.Index(args, option); i >= 0 {
		return slices.Delete(slices.Clone(args), i, i+2)
	}
	return args
}

func uvHeard(text string) heard {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	name, _, _ := strings.Cut(rest, " ")
	name, _, _ = strings.Cut(name, "==")
	switch word {
	case "Downloading", "Building":
		return heard{"begins", name}
	case "Downloaded", "Built":
		return heard{"has", name}
	}
	return heard{}
}

func (u *uv) resolve(ctx context.Context, r *request) ([]item, error) {
	out, err := u.install(ctx, r, append([]string{"--dry-run"}, r.more...)...)
	if err != nil {
		return nil, err
	}
	return uvPlan(out), nil
}

// uvPlan reads " + name==version" or " + name @ URL", the former sometimes with
// " (from URL)" behind it, and the same with ~ for what is installed again.
func uvPlan(lines []string) []item {
	var all []item
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if !strings.HasPrefix(l, "+ ") && !strings.HasPrefix(l, "~ ") {
			continue
		}
		what, from, _ := strings.Cut(l[2:], " (from ")
		if name, url, ok := strings.Cut(what, " @ "); ok {
			all = append(all, item{name, unknown, url})
		} else if name, version, ok := strings.Cut(what, "=="); ok {
			all = append(all, item{name, version, strings.TrimSuffix(from, ")")})
		}
	}
	return all
}

func (u *uv) stage(ctx context.Context, r *request, dir string) error {
	_, err := u.install(ctx, r, "--no-deps", "--prefix", dir)
	return err
}

func (u *uv) check(ctx context.Context, e *env) ([]string, error) {
	out, err := work(ctx, u.set.command(ctx, u.program, "pip", "check", "--python", e.python), func(string) {})
	if _, ok := errors.AsType[*FailureError](err); !ok {
		return nil, err
	}
	return slices.DeleteFunc(out, func(l string) bool {
		return strings.HasPrefix(l, "Using ") || strings.HasPrefix(l, "Checked ") || strings.HasPrefix(l, "Found ")
	}), nil
}

// pip is Python's own installer, that of the default environment.
type pip struct {
	set    *Set
	python string
}

func (p *pip) args(e *env, more ...string) []string {
	return append([]string{"-m", "pip", "--python", e.python}, more...)
}

func (p *pip) install(ctx context.Context, r *request, more ...string) ([]string, error) {
	args := p.args(r.env, append([]string{"install", "-r", r.file}, more...)...)
	if r.index != "" {
		args = append(args, "--index-url", r.index)
	}
	if r.hashes {
		args = append(args, "--require-hashes")
	}
	cmd := p.set.command(ctx, p.python, args...)
	cmd.Env = append(cmd.Env, "PIP_BREAK_SYSTEM_PACKAGES=1") // those older than the option ignore it
	return work(ctx, cmd, func(text string) { r.hear(text, pipHeard(text)) })
}

func pipHeard(text string) heard {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, "Collecting "); ok {
		end := strings.IndexAny(rest, " [<>=!~;@(")
		if end < 0 {
			end = len(rest)
		}
		return heard{"found", rest[:end]}
	}
	if rest, ok := strings.CutPrefix(text, "Building wheel for "); ok {
		name, _, _ := strings.Cut(rest, " ")
		return heard{"begins", name}
	}
	return heard{}
}

func (p *pip) resolve(ctx context.Context, r *request) ([]item, error) {
	report := r.file + ".report"
	defer os.Remove(report)
	if _, err := p.install(ctx, r, append([]string{"--dry-run", "--report", report}, r.more...)...); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(report)
	if err != nil {
		return nil, err
	}
	return pipPlan(b)
}

// pipPlan reads the report of what pip would do.
func pipPlan(report []byte) ([]item, error) {
	var plan struct {
		Install []struct {
			Info struct {
				URL string `json:"url"`
			} `json:"download_info"`
			Direct   bool `json:"is_direct"`
			Metadata struct{ Name, Version string }
		}
	}
	if err := json.Unmarshal(report, &plan); err != nil {
		return nil, err
	}
	var all []item
	for _, i := range plan.Install {
		one := item{name: i.Metadata.Name, version: i.Metadata.Version}
		if i.Direct {
			one.url = i.Info.URL
		}
		all = append(all, one)
	}
	return all, nil
}

func (p *pip) stage(ctx context.Context, r *request, dir string) error {
	_, err := p.install(ctx, r, "--no-deps", "--ignore-installed", "--no-compile", "--no-warn-script-location", "--prefix", dir)
	return err
}

func (p *pip) check(ctx context.Context, e *env) ([]string, error) {
	out, err := work(ctx, p.set.command(ctx, p.python, p.args(e, "check")...), func(string) {})
	if _, ok := errors.AsType[*FailureError](err); !ok {
		return nil, err
	}
	return out, nil
}

// settings returns where pip looks for packages, in uv's words: uv does not read
// pip's files, and a sandbox may reach a mirror only.
func (p *pip) settings(ctx context.Context) []string {
	cmd := p.set.command(ctx, p.python, "-m", "pip", "config", "list")
	out := &bounded{most: maxTail}
	cmd.Stdout = out
	if cmd.Run() != nil {
		return nil // there is no pip, or nothing that it knows
	}
	return uvSettings(out.String())
}

// uvSettings reads lines such as global.index-url='https://…'. What comes later
// counts more.
func uvSettings(list string) []string {
	words := map[string]string{
		"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links", "trusted-host": "--allow-insecure-host",
	}
	found := map[string]string{}
	for line := range strings.Lines(list) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		_, key, _ = strings.Cut(key, ".")
		if word := words[key]; word != "" {
			found[word] = strings.ReplaceAll(strings.Trim(value, `'"`), `\n`, " ")
		}
	}
	var args []string
	for _, word := range []string{"--default-index", "--index", "--find-links", "--allow-insecure-host"} {
		for value := range strings.FieldsSeq(found[word]) {
			args = append(args, word, value)
		}
	}
	return args
}
