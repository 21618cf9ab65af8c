// Package buildkit builds root images from recipes: Dockerfiles and the steps
// of E2B's SDKs. BuildKit does the work, as a child of the server, and every
// program that a recipe starts runs inside gVisor, in a cell of its own.
package buildkit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/soulbox/soulbox"
)

// An Engine builds. It starts its daemon with the first build and stops it when
// there was none for a while. Safe for concurrent use.
type Engine struct {
	Options
}

// Options say what an engine is made of.
type Options struct {
	Log    *slog.Logger
	Dir    string // everything the engine keeps: the cache, bases, sockets
	Daemon string // path of the program soulbox-buildkitd
	Step   string // path of the program soulbox-step

	// OpenCell makes a place for one step, with the limits of size, from which
	// the internet can be reached only if internet is set.
	OpenCell func(ctx context.Context, size soulbox.Size, internet bool) (Cell, error)

	// Pack makes the tree at dir fit for sandboxes and an image of it. It may
	// change the tree, which nobody else sees and which is gone afterwards.
	// source says for people where the tree came from.
	Pack func(ctx context.Context, dir, source string) (Packed, error)

	// AddUser makes sure that the tree at dir has the user called name, with a
	// home, and with sudo that asks for no password if sudo is set.
	AddUser func(ctx context.Context, dir, name string, sudo bool) error

	// Unpack makes the tree of a root image at dir, which does not exist.
	Unpack func(ctx context.Context, image, dir string) error

	Registries []string            // host:port of those that may be reached although their address is not public
	Mirrors    map[string][]string // registry → where to ask before it; http:// means without TLS

	Cache soulbox.Bytes // of results of earlier steps that are kept; 0: 20 GiB
	Idle  time.Duration // after which the daemon is stopped; 0: 10 minutes
}

// A Cell is what bounds one step: a network and a cgroup.
type Cell interface {
	Netns() string         // a file that is its network namespace
	Gateway() netip.Addr   // of that network, and also the nameserver
	Add(pids ...int) error // puts processes under the limits
	Blame() (string, bool) // which limit ended something in it, as the rest of a sentence
	Close() error          // ends what is still in it, and removes it
}

// Packed is what became of a tree.
type Packed struct {
	Image string             // SHA-256 of the EROFS file, in hex
	User  string             // that programs run as
	Facts soulbox.BuildFacts // what can be seen in the tree: Distribution, Packages, Bytes
}

// A Job is one build.
type Job struct {
	ID     soulbox.BuildID
	Recipe soulbox.Recipe

	// Base is the template to build on: what Recipe.Template says, or
	// Recipe.Image when that stands for one. Nil: Recipe.Image is an image.
	Base *soulbox.Template

	// Named are the templates that a Dockerfile may name as it names images,
	// by the names that [Bases] returns. Other names are those of images.
	Named map[string]*soulbox.Template

	// Uploads returns the folder with the unpacked files of an upload, which
	// stays as it is until the build has ended.
	Uploads func(ctx context.Context, hash string) (dir string, err error)

	Credentials map[string]soulbox.Login // by registry, such as docker.io or ghcr.io
	Secrets     map[string][]byte        // for RUN --mount=type=secret
	Limits      Limits
}

// Limits bound one build.
type Limits struct {
	Step     soulbox.Size  // of each program that the recipe starts; Disk: what one may write
	Time     time.Duration // of the build as a whole, packing included
	Internet bool          // programs that the recipe starts reach the internet
}

// A Result is what came of a build.
type Result struct {
	Image   string // SHA-256 of the EROFS file, in hex
	User    string // programs run as this user
	Workdir string // empty: the user's home
	Env     map[string]string
	Facts   soulbox.BuildFacts
}

// A StepError says that a build failed because of its recipe. The failure is
// for whoever wrote that. It is the cause of an [soulbox.Invalid] error.
type StepError struct {
	soulbox.BuildFailure
}

// Error returns the message.
func (e *StepError) Error() string { return e.Message }

// A Problem is something in a Dockerfile that is wrong, or only not good.
type Problem struct {
	Line    int    // from 1; 0: the file as a whole
	Rule    string // such as StageNameCasing; empty for what BuildKit does not understand
	Message string // what is the matter
	Remedy  string // what to do about it
	URL     string // where more about the rule is written; may be empty
	Fatal   bool   // it cannot be built
}

// Open returns an engine, after it has removed what an earlier one left.
func Open(o Options) (*Engine, error) {
	return nil, fmt.Errorf("open the build engine: %w", errors.ErrUnsupported)
}

// Build builds. It calls say with each line of the log, from one goroutine and
// until it returns. When ctx ends, or the job's time is up, or the engine is
// closed, what runs for the build is ended first.
//
// A *[StepError] in the chain says that the recipe is at fault, and where.
func (e *Engine) Build(ctx context.Context, job Job, say func(soulbox.BuildLine)) (Result, error) {
	return Result{}, fmt.Errorf("build %s: %w", job.ID, errors.ErrUnsupported)
}

// Close ends what is being built and stops the daemon.
func (e *Engine) Close() error { return errors.ErrUnsupported }

// Lint reads a Dockerfile and returns what is the matter with it, by line.
// Only one that is too large to be looked at is an error.
func Lint(ctx context.Context, dockerfile string) ([]Problem, error) {
	return nil, errors.ErrUnsupported
}

// Bases returns the names of images and templates that a Dockerfile takes
// files from, without those of its own stages and without duplicates. One that
// cannot be read is an [soulbox.Invalid] error.
func Bases(dockerfile string, args map[string]string) ([]string, error) {
	return nil, errors.ErrUnsupported
}
