package buildkit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/system"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// steps is a recipe of E2B's SDKs. What its steps mean is what E2B does:
// programs run by bash as the user of the moment, who is called "user" in the
// beginning and exists, and what is copied is that user's.
type steps struct {
	b       *running
	base    *base             // nil: the recipe's image
	uploads map[string]string // folders, by hash
}

const (
	firstUser = "user"
	rootUser  = "root"
)

func (e *Engine) planSteps(b *running) (recipe, error) {
	s := &steps{b: b, uploads: map[string]string{}}
	var err error
	if b.job.Base != nil {
		if s.base, err = e.base(b.ctx, b.job.Base); err != nil {
			return nil, err
		}
	}
	for i, step := range b.job.Recipe.Steps {
		if step.Kind != soulbox.StepCopy || s.uploads[step.Files] != "" {
			continue
		}
		dir, err := b.job.Uploads(b.ctx, step.Files)
		if err == nil {
			s.uploads[step.Files] = dir
			continue
		}
		if soulbox.KindOf(err) == soulbox.Internal {
			return nil, err
		}
		return nil, &StepError{soulbox.BuildFailure{Step: i + 1, Message: soulbox.MessageOf(err)}, err}
	}
	return s, nil
}

func (s *steps) locals() map[string]fsutil.FS {
	all := map[string]fsutil.FS{}
	for hash, dir := range s.uploads {
		if f, err := fsutil.NewFS(dir); err == nil { // or BuildKit says that there is none
			all[hash] = f
		}
	}
	return all
}

func (s *steps) stores() map[string]content.Store {
	if s.base == nil {
		return nil
	}
	return map[string]content.Store{s.base.id: s.base.store}
}

func (s *steps) key() string { return s.b.job.scope() }

func (s *steps) solve(ctx context.Context, c gateway.Client) (gateway.Reference, Result, error) {
	a, err := s.begin(ctx, c)
	if err != nil {
		return nil, Result{}, err
	}
	for i := range s.b.job.Recipe.Steps {
		a.step(i, &s.b.job.Recipe.Steps[i])
	}
	def, err := a.state.Marshal(ctx, llb.Platform(platforms.DefaultSpec()))
	if err != nil {
		return nil, Result{}, err
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: def.ToPB()})
	if err != nil {
		return nil, Result{}, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, Result{}, err
	}
	made := a.made
	made.User, made.Workdir, made.Env = a.user, a.workdir, a.env
	return ref, made, nil
}

// An assembly is how far the steps have come.
type assembly struct {
	s       *steps
	session string
	state   llb.State
	made    Result // what the base's author meant
	user    string
	workdir string
	env     map[string]string
	force   bool // whatever is known from earlier builds
}

// begin starts from the base.
func (s *steps) begin(ctx context.Context, c gateway.Client) (*assembly, error) {
	a := &assembly{s: s, session: c.BuildOpts().SessionID, user: firstUser, env: map[string]string{}, force: s.b.job.Recipe.Force}
	if s.base != nil {
		t := s.base.template
		a.state = llb.OCILayout(s.base.ref(), llb.OCIStore(a.session, s.base.id), llb.WithCustomName("[base] FROM "+cmp.Or(s.b.job.Recipe.Image, s.base.source)))
		maps.Copy(a.env, t.Env)
		a.made.Facts.Base, a.made.Facts.Layers = s.base.source, 1
		if t.User != "" {
			a.user = t.User
		}
		a.workdir = t.Workdir
	} else if err := a.image(ctx, c, s.b.job.Recipe.Image); err != nil {
		return nil, err
	}
	if a.workdir == "" {
		a.workdir = home(a.user)
	}
	for _, name := range slices.Sorted(maps.Keys(a.env)) {
		a.state = a.state.AddEnv(name, a.env[name])
	}
	a.special("[base] user "+a.user, userProgram, firstUser, sudoWord)
	return a, nil
}

// image starts from an image of a registry.
func (a *assembly) image(ctx context.Context, c gateway.Client, name string) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return &StepError{soulbox.BuildFailure{Message: fmt.Sprintf("%.200q cannot be an image: %s", name, err)}, err}
	}
	platform := platforms.DefaultSpec()
	ref, dgst, config, err := c.ResolveImageConfig(ctx, reference.TagNameOnly(named).String(), sourceresolver.Opt{
		LogName:  "load metadata of " + name,
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform},
	})
	if err != nil {
		return err
	}
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		return &StepError{soulbox.BuildFailure{Message: fmt.Sprintf("the configuration of image %.200q cannot be read", name)}, err}
	}
	if bare, _, ok := strings.Cut(ref, "@"); !ok || bare == "" {
		ref += "@" + dgst.String()
	}
	a.state = llb.Image(ref, llb.WithCustomName("[base] FROM "+name), llb.Platform(platform))
	a.made = resultOf(&img)
	a.made.Facts.Base, a.made.Facts.Layers = ref, len(img.RootFS.DiffIDs)
	maps.Copy(a.env, a.made.Env)
	return nil
}

// home returns where a user is at home, as useradd and we do it.
func home(user string) string {
	if user == rootUser || user == "0" {
		return "/root"
	}
	return "/home/" + user
}

// step does step i, which was checked before.
func (a *assembly) step(i int, s *soulbox.Step) {
	a.force = a.force || s.Force
	label := fmt.Sprintf("[builder %d/%d]", i+1, len(a.s.b.job.Recipe.Steps))
	name := label + " " + string(s.Kind) + " " + strings.Join(s.Args, " ")
	arg := func(i int) string {
		if i < len(s.Args) {
			return s.Args[i]
		}
		return ""
	}
	switch s.Kind {
	case soulbox.StepRun:
		user := a.user
		if u := arg(1); u != "" {
			user = u
		}
		a.run(label+" RUN "+arg(0), llb.Args([]string{"/bin/bash", "-l", "-c", arg(0)}), llb.User(user), llb.Dir(a.workdir))
	case soulbox.StepCopy:
		a.copy(label, s.Files, arg(0), arg(1), arg(2), arg(3))
	case soulbox.StepEnv:
		for i := 0; i+1 < len(s.Args); i += 2 {
			value := a.expand(unquoted(s.Args[i+1]))
			a.env[s.Args[i]] = value
			a.state = a.state.AddEnv(s.Args[i], value)
		}
	case soulbox.StepWorkdir:
		a.workdir = under(a.workdir, arg(0))
		a.special(name, dirProgram, a.workdir, a.user)
	case soulbox.StepUser:
		a.user = arg(0)
		if plain, _, _ := strings.Cut(a.user, ":"); userNumber.MatchString(plain) {
			return // whose name nobody knows
		}
		args := []string{userProgram, a.user}
		if arg(1) == "true" {
			args = append(args, sudoWord)
		}
		a.special(name, args...)
	}
}

// run adds a step that runs, or seems to.
func (a *assembly) run(name string, options ...llb.RunOption) {
	j := a.s.b.job
	options = append(options,
		llb.WithCustomName(name),
		llb.WithCgroupParent(j.scope()), // nothing comes of it, but results are found by it
		llb.WithProxy(llb.ProxyEnv{FTPProxy: stepwire.TokenTag + a.s.b.token}))
	if a.force {
		options = append(options, llb.IgnoreCache)
	}
	a.state = a.state.Run(options...).Root()
	a.made.Facts.Layers++
}

// special adds a step that we do ourselves.
func (a *assembly) special(name string, args ...string) {
	a.run(name, llb.Args(args), llb.User(rootUser), llb.Dir("/"))
}

// copy adds a step that copies as E2B does: as Docker, but a link is copied as a
// link, and of a pattern what is before it counts. The client has applied it: an
// upload holds what it matched and nothing else.
func (a *assembly) copy(label, hash, src, dest, user, mode string) {
	owner := a.user
	if user != "" {
		owner = user
	}
	folder := strings.HasSuffix(dest, "/") || dest == "." || strings.HasSuffix(dest, "/.")
	to := under(a.workdir, dest)
	if folder && to != "/" {
		to += "/"
	}
	from := path.Join("/", beforePattern(src))
	info := &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true}
	var before *llb.FileAction
	if m, err := strconv.ParseUint(mode, 8, 32); err == nil {
		info.Mode = &llb.ChmodOpt{Mode: os.FileMode(m)}
		// BuildKit would give that mode to the folders above, too.
		parent := path.Dir(to)
		if isFolder(a.s.uploads[hash], from) {
			parent = to
		}
		before = llb.Mkdir(parent, 0o755, llb.WithParents(true), llb.WithUser(owner))
	}
	// What an upload is called is its sender's to say, so nothing of one that
	// was received before is trusted to be still the same.
	files := llb.Local(hash, llb.SessionID(a.session), llb.SharedKeyHint(hash), llb.Differ(llb.DiffNone, false),
		llb.WithCustomName("load an upload"))
	options := []llb.ConstraintsOpt{llb.WithCustomName(fmt.Sprintf("%s COPY %s %s", label, src, dest))}
	if a.force {
		options = append(options, llb.IgnoreCache)
	}
	a.state = a.state.File(before.Copy(files, from, to, info, llb.WithUser(owner)), options...)
	a.made.Facts.Layers++
}

// beforePattern returns the folder in which the matches of a pattern are, or src
// as it is if it is none. What makes a pattern is what glob for JavaScript and
// wcmatch for Python take for one.
func beforePattern(src string) string {
	parts := strings.Split(src, "/")
	for i, part := range parts {
		if strings.ContainsAny(part, "*?[{") || extended.MatchString(part) {
			return strings.Join(parts[:i], "/")
		}
	}
	return src
}

// isFolder reports whether name is a folder in an upload.
func isFolder(upload, name string) bool {
	root, err := os.OpenRoot(upload)
	if err != nil {
		return false
	}
	defer root.Close()
	info, err := root.Lstat(path.Join(".", name))
	return err == nil && info.IsDir()
}

var extended = regexp.MustCompile(`[!+@]\(.*\)`)

// expand replaces $NAME and ${NAME} by what is known of the environment, and
// nothing else.
func (a *assembly) expand(s string) string {
	return expandVars(s, func(name string) string {
		if v, ok := a.env[name]; ok {
			return v
		}
		switch name {
		case "HOME":
			return home(a.user)
		case "USER":
			return a.user
		case "PWD":
			return a.workdir
		case "PATH": // which programs have that are told no other
			return system.DefaultPathEnv("linux")
		}
		return ""
	})
}

// unquoted removes the quotes around a value: clients that read a Dockerfile
// send them as they stand there.
func unquoted(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] && strings.Count(s, s[:1]) == 2 {
		return s[1 : n-1]
	}
	return s
}

// expandVars replaces $NAME and ${NAME}. A backslash before the dollar keeps it.
func expandVars(s string, value func(name string) string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			return out.String() + s
		}
		if i > 0 && s[i-1] == '\\' {
			out.WriteString(s[:i-1] + "$")
			s = s[i+1:]
			continue
		}
		out.WriteString(s[:i])
		name, rest := varName(s[i+1:])
		if name == "" {
			out.WriteByte('$')
			s = s[i+1:]
			continue
		}
		out.WriteString(value(name))
		s = rest
	}
}

// varName reads a variable's name, perhaps in braces, behind a dollar.
func varName(s string) (name, rest string) {
	if inner, ok := strings.CutPrefix(s, "{"); ok {
		name, rest, ok = strings.Cut(inner, "}")
		if ok && isName(name) {
			return name, rest
		}
		return "", s
	}
	n := 0
	for n < len(s) && isName(s[:n+1]) {
		n++
	}
	return s[:n], s[n:]
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
