package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/staticfs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// A dockerfile is a recipe that BuildKit's own frontend understands.
type dockerfile struct {
	b       *running
	text    string
	ignore  []byte // Dockerfile.dockerignore, which counts in place of .dockerignore; nil: there is none
	context fsutil.FS
	bases   map[string]*base // by the name that FROM uses
	origin  string           // the name of the image or template that the last stage begins with
}

const (
	dockerfileName = "Dockerfile"
	ignoreName     = dockerfileName + ".dockerignore" // that BuildKit looks for beside it
	dockerfileMode = 0o644
	frontend       = "dockerfile.v0"
)

func (e *Engine) planDockerfile(b *running) (recipe, error) {
	r := &b.job.Recipe
	text, err := ownFrontend(r.Dockerfile)
	if err != nil {
		return nil, err
	}
	stages, err := parseStages(r.Dockerfile, r.Args)
	if err != nil {
		return nil, err
	}
	b.log.first = stages.first(b.job.Named)
	d := &dockerfile{b: b, text: text, bases: map[string]*base{}, context: staticfs.NewFS()}
	if d.origin, err = stages.origin(r.Target); err != nil {
		return nil, err
	}
	for _, name := range stages.bases() {
		if t := b.job.Named[name]; t != nil {
			if d.bases[name], err = e.base(b.ctx, t); err != nil {
				return nil, err
			}
		}
	}
	if r.Context != "" {
		dir, err := b.job.Uploads(b.ctx, r.Context)
		if err != nil {
			return nil, err
		}
		if d.context, err = fsutil.NewFS(dir); err != nil {
			return nil, err
		}
		if d.ignore, err = readIgnore(dir); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// readIgnore reads Dockerfile.dockerignore in an upload.
func readIgnore(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fi, err := root.Stat(ignoreName)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, soulbox.Hide(soulbox.Invalid, err, ignoreName+" cannot be read")
	case !fi.Mode().IsRegular():
		return nil, soulbox.Errorf(soulbox.Invalid, "%s is not a file", ignoreName)
	case fi.Size() > maxDockerfile:
		return nil, soulbox.Errorf(soulbox.TooLarge, "%s is larger than %d bytes", ignoreName, maxDockerfile)
	}
	return root.ReadFile(ignoreName)
}

func (d *dockerfile) locals() map[string]fsutil.FS {
	file := staticfs.NewFS()
	file.Add(dockerfileName, &types.Stat{Mode: dockerfileMode}, []byte(d.text))
	if d.ignore != nil {
		file.Add(ignoreName, &types.Stat{Mode: dockerfileMode}, d.ignore)
	}
	return map[string]fsutil.FS{"dockerfile": file, "context": d.context}
}

func (d *dockerfile) stores() map[string]content.Store {
	stores := map[string]content.Store{}
	for _, b := range d.bases {
		stores[b.id] = b.store
	}
	return stores
}

// key is different for whatever could have a file of the same name, size and
// time: by these BuildKit recognizes what it has been sent before.
func (d *dockerfile) key() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %q %q %q", d.b.job.scope(), d.text, d.ignore, d.b.job.Recipe.Context)
	return hex.EncodeToString(sum.Sum(nil))
}

// hiddenArg is tokenArg in letters that the frontend recognizes as that of a
// proxy, and that no Dockerfile uses: ARG FTP_PROXY must not find a token.
const hiddenArg = "FTP_proxy"

// options are what the frontend is told.
func (d *dockerfile) options() map[string]string {
	r := &d.b.job.Recipe
	scope := d.b.job.scope()
	o := map[string]string{
		"filename":                          dockerfileName,
		"target":                            r.Target,
		"cgroup-parent":                     scope, // nothing comes of it, but results are found by it
		"build-arg:" + hiddenArg:            stepwire.TokenTag + d.b.token,
		"build-arg:BUILDKIT_CACHE_MOUNT_NS": scope,
	}
	for name, value := range r.Args {
		o["build-arg:"+name] = value
	}
	if r.Force {
		o["no-cache"] = ""
	}
	for name, b := range d.bases {
		o["context:"+familiar(name)] = "oci-layout://" + b.id + "@" + b.manifest.String()
	}
	return o
}

func (d *dockerfile) solve(ctx context.Context, c gateway.Client) (gateway.Reference, Result, error) {
	res, err := c.Solve(ctx, gateway.SolveRequest{Evaluate: true, Frontend: frontend, FrontendOpt: d.options()})
	if err != nil {
		return nil, Result{}, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, Result{}, err
	}
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(res.Metadata[exptypes.ExporterImageConfigKey], &img); err != nil {
		return nil, Result{}, fmt.Errorf("the image's configuration: %w", err)
	}
	if ref == nil {
		return nil, Result{}, &StepError{soulbox.BuildFailure{Finish: true, Message: "the image is empty: there is nothing in it that could run"}, nil}
	}
	made := resultOf(&img)
	made.Config = res.Metadata[exptypes.ExporterImageConfigKey]
	made.Facts.Base = d.b.log.origin(normal(d.origin))
	if b := d.bases[d.origin]; b != nil {
		made.Facts.Base = b.source
	}
	for _, h := range img.History {
		if !h.EmptyLayer {
			made.Facts.Layers++
		}
	}
	made.Facts.Layers = max(made.Facts.Layers, len(img.RootFS.DiffIDs))
	return ref, made, nil
}

// resultOf returns what the author of an image meant.
func resultOf(img *dockerspec.DockerOCIImage) Result {
	c := img.Config
	user, _, _ := strings.Cut(c.User, ":")
	r := Result{User: user, Env: map[string]string{}}
	// The root is what every image has that names no folder; here that means
	// the user's home.
	if dir := under("/", c.WorkingDir); dir != "/" {
		r.Workdir = dir
	}
	for _, v := range c.Env {
		if name, value, ok := strings.Cut(v, "="); ok && name != "" {
			r.Env[name] = value
		}
	}
	r.Facts = soulbox.BuildFacts{
		Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
		Entrypoint: c.Entrypoint, Command: c.Cmd, Labels: c.Labels, Author: img.Author,
	}
	return r
}

// ownFrontend returns the Dockerfile without its syntax line, if that names
// the frontend which we have. Others are images that would have to be run.
func ownFrontend(text string) (string, error) {
	syntax, _, where, ok := parser.DetectSyntax([]byte(text))
	if !ok {
		return text, nil
	}
	named, err := reference.ParseNormalizedNamed(syntax)
	if err != nil || named.Name() != "docker.io/docker/dockerfile" && named.Name() != "docker.io/docker/dockerfile-upstream" {
		return "", soulbox.Errorf(soulbox.Invalid, "the Dockerfile's syntax is %.200q; only docker/dockerfile can be built here", syntax)
	}
	lines := strings.SplitAfter(text, "\n")
	for _, r := range where {
		if n := r.Start.Line - 1; n >= 0 && n < len(lines) {
			lines[n] = "# " + strings.TrimLeft(strings.Replace(lines[n], "=", " ", 1), "#/ \t") // no directive any more
		}
	}
	return strings.Join(lines, ""), nil
}

// stages is what can be known of a Dockerfile without building it.
type stages struct {
	all  []instructions.Stage
	args []string // NAME=value, those before the first FROM
	lex  *shell.Lex
}

func parseStages(text string, given map[string]string) (*stages, error) {
	if len(text) > maxDockerfile {
		return nil, soulbox.Errorf(soulbox.TooLarge, "the Dockerfile is larger than %d bytes", maxDockerfile)
	}
	file, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s", where(err))
	}
	all, global, err := instructions.Parse(file.AST, nil)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s", where(err))
	}
	s := &stages{all: all, lex: shell.NewLex(file.EscapeToken)}
	for _, side := range []string{"TARGET", "BUILD"} {
		s.args = append(s.args, side+"PLATFORM=linux/"+runtime.GOARCH, side+"OS=linux", side+"ARCH="+runtime.GOARCH, side+"VARIANT=")
	}
	for _, cmd := range global {
		for _, arg := range cmd.Args {
			value, ok := given[arg.Key]
			if !ok {
				if arg.Value == nil {
					continue
				}
				if value, err = s.expand(*arg.Value); err != nil {
					return nil, err
				}
			}
			s.args = append(s.args, arg.Key+"="+value)
		}
	}
	return s, nil
}

// where returns an error of the parser with its line.
func where(err error) string {
	message := err.Error()
	if at, ok := errors.AsType[*parser.LocationError](err); ok && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		if line := fmt.Sprintf("line %d", at.Locations[0][0].Start.Line); !strings.Contains(message, line) {
			return line + ": " + message
		}
	}
	return message
}

// expand replaces variables in the name of an image, or a default of ARG. Both
// are bounded, because each variable may hold several others.
func (s *stages) expand(word string) (string, error) {
	const most = 4 << 10
	if len(word) > most {
		return "", soulbox.Errorf(soulbox.Invalid, "%.100q… is longer than %d bytes", word, most)
	}
	got, _, err := s.lex.ProcessWord(word, shell.EnvsFromSlice(s.args))
	if err != nil {
		return "", soulbox.Errorf(soulbox.Invalid, "%.200q cannot be expanded: %s", word, err)
	}
	if len(got) > most {
		return "", soulbox.Errorf(soulbox.Invalid, "%.100q is longer than %d bytes once it is expanded", word, most)
	}
	return got, nil
}

// find returns the index of the stage that name means to the stages before
// limit, or -1.
func (s *stages) find(name string, limit int) int {
	for i := limit - 1; i >= 0; i-- {
		if strings.EqualFold(s.all[i].Name, name) && name != "" {
			return i
		}
	}
	return -1
}

// bases returns the names of what is not a stage, each once.
func (s *stages) bases() []string {
	var names []string
	add := func(name string, limit int) {
		name, err := s.expand(name)
		if err == nil && name != "" && !strings.EqualFold(name, "scratch") && s.find(name, limit) < 0 && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	number := func(name string) bool { return strings.Trim(name, "0123456789") == "" }
	for i := range s.all {
		add(s.all[i].BaseName, i)
		for _, cmd := range s.all[i].Commands {
			switch cmd := cmd.(type) {
			case *instructions.CopyCommand:
				if !number(cmd.From) {
					add(cmd.From, i)
				}
			case *instructions.RunCommand:
				for _, m := range instructions.GetMounts(cmd) {
					if !number(m.From) {
						add(m.From, len(s.all))
					}
				}
			}
		}
	}
	return names
}

// first returns, by the names that the frontend gives to stages, which number
// the instruction behind FROM has. A FROM that brings no image is not counted.
func (s *stages) first(named map[string]*soulbox.Template) map[string]int {
	first := map[string]int{}
	for i := range s.all {
		name := s.all[i].Name
		switch {
		case len(s.all) == 1:
			name = ""
		case name == "":
			name = fmt.Sprintf("stage-%d", i)
		}
		base, err := s.expand(s.all[i].BaseName)
		if err != nil || strings.EqualFold(base, "scratch") || s.find(base, i) >= 0 || named[base] != nil {
			first[name] = 1
		}
	}
	return first
}

// origin returns what the stage called target begins with, in the end; the last
// stage if target is empty.
func (s *stages) origin(target string) (string, error) {
	i := len(s.all) - 1
	if target != "" {
		if i = s.find(target, len(s.all)); i < 0 {
			return "", soulbox.Errorf(soulbox.Invalid, "the Dockerfile has no stage %.100q", target)
		}
	}
	for i >= 0 {
		name, err := s.expand(s.all[i].BaseName)
		if err != nil {
			return "", err
		}
		next := s.find(name, i)
		if next < 0 {
			return name, nil
		}
		i = next
	}
	return "", soulbox.Errorf(soulbox.Invalid, "the Dockerfile has no stage")
}

// Bases returns the names of images and templates that a Dockerfile takes
// files from, without those of its own stages and without duplicates. args are
// the values of ARG. One that cannot be read is an [soulbox.Invalid] error.
func Bases(dockerfile string, args map[string]string) ([]string, error) {
	s, err := parseStages(dockerfile, args)
	if err != nil {
		return nil, fmt.Errorf("read the Dockerfile: %w", err)
	}
	return s.bases(), nil
}

// familiar returns the name by which the frontend looks up a context.
func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest")
}

// normal returns the full name of an image.
func normal(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.TagNameOnly(named).String()
}
