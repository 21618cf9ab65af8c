package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// A Job is one build.
type Job struct {
	ID     soulbox.BuildID
	Team   soulbox.TeamID // builds of a team profit from each other
	Recipe soulbox.Recipe

	// Base is the template to build on: what Recipe.Template says, or
	// Recipe.Image when that stands for one. Nil: Recipe.Image is an image.
	Base *soulbox.Template

	// Named are the templates that a Dockerfile may name as it names images,
	// by the names that [Bases] returns. Other names are those of images.
	Named map[string]*soulbox.Template

	// Uploads returns the folder with the unpacked files of an upload, which
	// stays as it is until the build has ended. Nobody else changes it.
	Uploads func(ctx context.Context, hash string) (dir string, err error)

	Credentials map[string]soulbox.Login // by registry, such as docker.io or ghcr.io:443
	Secrets     map[string][]byte        // for RUN --mount=type=secret
	Limits      Limits
}

// Limits bound one build.
type Limits struct {
	Step     soulbox.Size  // of each program that the recipe starts; Disk: what that may write
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

	// Config is all that the author of a Dockerfile meant, as an OCI image has
	// it: JSON of its specification and of Docker's additions. Nil after steps.
	Config []byte
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
	User  string             // that programs run as unless somebody says otherwise
	Facts soulbox.BuildFacts // what can be seen in the tree: Distribution, Packages, Bytes
}

// A StepError says that a build failed because of its recipe. The failure is
// for whoever wrote that.
type StepError struct {
	soulbox.BuildFailure

	cause error
}

// Error returns the message.
func (e *StepError) Error() string { return e.Message }

// Unwrap returns what BuildKit said, which is for the log.
func (e *StepError) Unwrap() error { return e.cause }

// Bounds of a recipe that make no sense to exceed.
const (
	maxDockerfile = 1 << 20
	maxSteps      = 1000
	maxArgument   = 256 << 10 // of one step
)

// scope returns a short name for the builds that may use each other's results.
// It is part of what results are found again by, so that nobody learns what the
// steps of another team have made, by having the same Dockerfile.
func (j *Job) scope() string {
	sum := sha256.Sum256([]byte("soulbox " + j.Team))
	return hex.EncodeToString(sum[:8])
}

// check returns an error if the job cannot be done whatever the world is like.
func (j *Job) check() error {
	r := &j.Recipe
	size := j.Limits.Step
	switch {
	case !j.ID.Valid():
		return soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a build", j.ID)
	case size.CPUs <= 0 || size.Memory <= 0 || size.PIDs <= 0 || size.Disk <= 0 || j.Limits.Time <= 0:
		return soulbox.Errorf(soulbox.Invalid, "a build needs limits: %+v are none", j.Limits)
	case r.Dockerfile != "" && (r.Image != "" || r.Template != "" || len(r.Steps) > 0):
		return soulbox.Errorf(soulbox.Invalid, "a recipe has a Dockerfile or steps, not both")
	case len(r.Dockerfile) > maxDockerfile:
		return soulbox.Errorf(soulbox.TooLarge, "the Dockerfile is larger than %d bytes", maxDockerfile)
	case len(r.Steps) > maxSteps:
		return soulbox.Errorf(soulbox.TooLarge, "the recipe has %d steps, more than %d", len(r.Steps), maxSteps)
	case r.Dockerfile != "":
		return j.checkArgs()
	case r.Template != "" && j.Base == nil:
		return soulbox.Errorf(soulbox.Invalid, "the template %.200q to build on is not there", r.Template)
	case r.Image == "" && j.Base == nil:
		return soulbox.Errorf(soulbox.Invalid, "the recipe does not say what to build on")
	}
	for i := range r.Steps {
		if err := checkStep(&r.Steps[i]); err != nil {
			return &StepError{soulbox.BuildFailure{Step: i + 1, Message: soulbox.MessageOf(err)}, err}
		}
	}
	return nil
}

// checkArgs refuses build arguments by which BuildKit is told what is not the
// recipe's business, such as whose cache to use.
func (j *Job) checkArgs() error {
	for name := range j.Recipe.Args {
		upper := strings.ToUpper(name)
		if strings.HasPrefix(upper, "BUILDKIT_") || upper == tokenArg {
			return soulbox.Errorf(soulbox.Invalid, "the build argument %.100q cannot be set", name)
		}
	}
	return nil
}

// User names as useradd takes them, and numbers.
var (
	userName   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	userNumber = regexp.MustCompile(`^[0-9]{1,9}$`)
)

// checkUser checks a user as steps name it: a name or a number, and perhaps a
// group behind a colon.
func checkUser(s string) error {
	user, group, grouped := strings.Cut(s, ":")
	ok := func(s string) bool { return userName.MatchString(s) || userNumber.MatchString(s) }
	if !ok(user) || grouped && !ok(group) {
		return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be a user", s)
	}
	return nil
}

// checkStep returns an error if a step can never be done.
func checkStep(s *soulbox.Step) error {
	for _, a := range s.Args {
		if len(a) > maxArgument {
			return soulbox.Errorf(soulbox.TooLarge, "an argument of %s has more than %d bytes", s.Kind, maxArgument)
		}
		if strings.ContainsRune(a, 0) {
			return soulbox.Errorf(soulbox.Invalid, "an argument of %s holds NUL", s.Kind)
		}
	}
	arg := func(i int) string {
		if i < len(s.Args) {
			return s.Args[i]
		}
		return ""
	}
	count := func(low, high int) error {
		if n := len(s.Args); n < low || n > high {
			return soulbox.Errorf(soulbox.Invalid, "%s has %d arguments", s.Kind, n)
		}
		return nil
	}
	switch s.Kind {
	case soulbox.StepRun:
		if err := count(1, 2); err != nil {
			return err
		}
		// An unknown user is found when the step runs, as in E2B.
		return nil
	case soulbox.StepCopy:
		return checkCopy(s, arg, count)
	case soulbox.StepEnv:
		if len(s.Args) == 0 || len(s.Args)%2 != 0 {
			return soulbox.Errorf(soulbox.Invalid, "ENV needs names and values in pairs")
		}
		for i := 0; i < len(s.Args); i += 2 {
			if name := s.Args[i]; name == "" || strings.ContainsAny(name, "=\n") {
				return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be a variable", name)
			}
		}
		return nil
	case soulbox.StepWorkdir:
		if err := count(1, 1); err != nil {
			return err
		}
		return checkPath(arg(0))
	case soulbox.StepUser:
		if err := count(1, 2); err != nil {
			return err
		}
		return checkUser(arg(0))
	default:
		return soulbox.Errorf(soulbox.Invalid, "there is no step %.50q", s.Kind)
	}
}

func checkCopy(s *soulbox.Step, arg func(int) string, count func(low, high int) error) error {
	if err := count(2, 4); err != nil {
		return err
	}
	if s.Files == "" {
		return soulbox.Errorf(soulbox.Invalid, "COPY names no upload")
	}
	for i := range 2 {
		if err := checkPath(arg(i)); err != nil {
			return err
		}
	}
	if arg(2) != "" {
		if err := checkUser(arg(2)); err != nil {
			return err
		}
	}
	if m := arg(3); m != "" {
		if n, err := strconv.ParseUint(m, 8, 32); err != nil || n > 0o7777 {
			return soulbox.Errorf(soulbox.Invalid, "%.50q is not an octal mode", m)
		}
	}
	return nil
}

func checkPath(p string) error {
	if p == "" || strings.ContainsAny(p, "\n\r") || len(p) > 4096 {
		return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be a path", p)
	}
	return nil
}

// under returns where the path p leads for somebody who is in dir.
func under(dir, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", dir, p)
}
