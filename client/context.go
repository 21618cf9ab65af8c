package client

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/soulbox/soulbox"
)

const (
	dockerignore = ".dockerignore"

	// maxDockerfile is the most that a server takes.
	maxDockerfile = 256 << 10
)

// A buildContext is a folder with what a Dockerfile may copy from.
type buildContext struct {
	dir    string
	ignore *patternmatcher.PatternMatcher // nil: nothing
	// own is set when the Dockerfile has a .dockerignore of its own. The
	// folder's does not count then, and is left out so that the server, which
	// honours it as well, does not find it.
	own bool
}

// openContext returns the text of a Dockerfile, which is the folder's unless
// file names another one, and the context.
func openContext(dir, file string) (text string, c *buildContext, err error) {
	if file == "" {
		file = filepath.Join(dir, "Dockerfile")
	}
	text, err = readText(file)
	if err != nil || dir == "" {
		return text, nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	if !info.IsDir() {
		return "", nil, soulbox.Errorf(soulbox.Invalid, "%s is not a folder", dir)
	}
	c = &buildContext{dir: dir}
	// As docker does: the one that is called like the Dockerfile wins.
	for _, name := range []string{file + dockerignore, filepath.Join(dir, dockerignore)} {
		c.ignore, err = readIgnore(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c.own = name != filepath.Join(dir, dockerignore)
		return text, c, err
	}
	return text, c, nil
}

func readText(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	switch {
	case err != nil:
		return "", soulbox.Errorf(soulbox.Invalid, "%w", err)
	case len(b) > maxDockerfile:
		return "", soulbox.Errorf(soulbox.TooLarge, "%s is larger than %d KiB", name, maxDockerfile>>10)
	}
	return string(b), nil
}

func readIgnore(name string) (*patternmatcher.PatternMatcher, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: %w", name, err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: %w", name, err)
	}
	return m, nil
}

// pack writes the context as a tar, without owners: the files belong to root, as
// for docker.
func (c *buildContext) pack(ctx context.Context, w io.Writer) error {
	p := contextPacker{buildContext: c, ctx: ctx, tar: tar.NewWriter(w), matches: map[string]patternmatcher.MatchInfo{}}
	if err := filepath.WalkDir(c.dir, p.visit); err != nil {
		return err
	}
	return p.tar.Close()
}

type contextPacker struct {
	*buildContext
	ctx     context.Context //nolint:containedctx // WalkDir has no place for it
	tar     *tar.Writer
	matches map[string]patternmatcher.MatchInfo // of folders, by their paths from dir
	waiting []*tar.Header                       // folders that are ignored, with something in them that may not be
}

func (p *contextPacker) visit(name string, d fs.DirEntry, err error) error {
	switch {
	case err != nil:
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	case p.ctx.Err() != nil:
		return context.Cause(p.ctx)
	}
	rel, err := filepath.Rel(p.dir, name)
	if err != nil || rel == "." {
		return err
	}
	ignored, err := p.ignored(rel, d)
	if err != nil {
		return err
	}
	if ignored && (!d.IsDir() || !p.ignore.Exclusions()) {
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	}
	h, err := contextHeader(name, rel, d)
	if err != nil || h == nil {
		return err
	}
	for len(p.waiting) > 0 && !strings.HasPrefix(h.Name, p.waiting[len(p.waiting)-1].Name) {
		p.waiting = p.waiting[:len(p.waiting)-1]
	}
	if ignored {
		p.waiting = append(p.waiting, h)
		return nil
	}
	for _, folder := range p.waiting {
		if err := p.tar.WriteHeader(folder); err != nil {
			return fmt.Errorf("pack %s: %w", folder.Name, err)
		}
	}
	p.waiting = nil
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	return p.content(name, h.Size)
}

// ignored reports whether .dockerignore leaves a path out.
func (p *contextPacker) ignored(rel string, d fs.DirEntry) (bool, error) {
	if p.own && rel == dockerignore {
		return true, nil
	}
	if p.ignore == nil {
		return false, nil
	}
	matched, info, err := p.ignore.MatchesUsingParentResults(rel, p.matches[filepath.Dir(rel)])
	if err != nil {
		return false, soulbox.Errorf(soulbox.Invalid, "%s: %w", dockerignore, err)
	}
	if d.IsDir() {
		p.matches[rel] = info
	}
	return matched, nil
}

func (p *contextPacker) content(name string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer f.Close()
	// Exactly what the header has promised, also if the file grows meanwhile.
	if _, err := io.CopyN(p.tar, f, size); err != nil {
		if errors.Is(err, io.EOF) {
			return soulbox.Errorf(soulbox.Conflict, "%s became shorter while it was read", name)
		}
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

// contextHeader describes an entry; nil for what is neither a file, a folder nor a
// link. A file with several names is there several times.
func contextHeader(name, rel string, d fs.DirEntry) (*tar.Header, error) {
	info, err := d.Info()
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	target := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = os.Readlink(name); err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
	default:
		return nil, nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "pack %s: %w", name, err)
	}
	h.Name = filepath.ToSlash(rel)
	if info.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname, h.Format = 0, 0, "", "", tar.FormatPAX
	return h, nil
}
