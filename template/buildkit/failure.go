package buildkit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/soulbox/soulbox"
)

// failure returns what to tell about err, which ended the build.
func (b *running) failure(err error) error {
	// What ended the context ended everything else.
	if cause := context.Cause(b.ctx); cause != nil && !errors.Is(cause, errOver) {
		if errors.Is(cause, errTime) {
			message := fmt.Sprintf("the build took longer than its limit of %v", b.job.Limits.Time.Round(time.Second))
			return b.stepError(b.log.at(""), message, err)
		}
		return cause
	}
	if f, ok := errors.AsType[*StepError](err); ok {
		return f
	}
	if soulbox.KindOf(err) != soulbox.Internal {
		return err
	}
	why := b.blamed()
	switch soulbox.KindOf(why) {
	case soulbox.Internal:
		if why != nil {
			return fmt.Errorf("%w (%w)", err, why)
		}
	case soulbox.Unavailable: // nor is that the recipe's fault
		return why
	default:
	}
	var dgst digest.Digest
	if v, ok := errors.AsType[*errdefs.VertexError](err); ok {
		dgst = digest.Digest(v.Digest)
	}
	v := b.log.at(dgst)
	if v == nil {
		v = &vertex{step: stepBase} // it was not even read
	}
	return b.stepError(v, b.message(v, err, why), err)
}

// stepError says that the recipe failed at v.
func (b *running) stepError(v *vertex, message string, cause error) *StepError {
	e := &StepError{soulbox.BuildFailure{Message: message}, cause}
	if v == nil {
		return e
	}
	e.Finish = v.step == stepFinish
	if n, err := strconv.Atoi(v.step); err == nil {
		e.Step = n
	}
	return e
}

// message returns the sentence about err, which happened at v because of why,
// if that is known.
func (b *running) message(v *vertex, err, why error) string {
	reason := tidy(err.Error())
	if exit, ok := errors.AsType[*gatewaypb.ExitError](err); ok && exit.ExitCode < gatewaypb.UnknownExitStatus {
		reason = fmt.Sprintf("exit status %d", exit.ExitCode)
	}
	if why != nil {
		reason = soulbox.MessageOf(why)
	} else if refused := b.refused(v.text + " " + reason); refused != "" && !strings.Contains(reason, refused) {
		reason = refused + ": " + reason
	}
	steps := b.job.Recipe.Steps
	n, _ := strconv.Atoi(v.step) // 0 is no step's
	if n < 1 || n > len(steps) {
		if verb, _, _ := strings.Cut(v.text, " "); v.text != "" && verb != "FROM" {
			return fmt.Sprintf("%s: %s", cut(v.text, maxMessage/2), cut(reason, maxMessage/2))
		}
		return cut(reason, maxMessage)
	}
	s := steps[n-1]
	// The words are those of E2B's API, which clients look for.
	switch s.Kind {
	case soulbox.StepRun:
		if name := unknownUser(reason); name != "" {
			reason = fmt.Sprintf("unauthenticated: invalid username: '%s'", name)
		}
		return fmt.Sprintf("failed to run command '%s': command failed: %s", cut(s.Args[0], maxMessage/2), cut(reason, maxMessage/2))
	case soulbox.StepCopy:
		return fmt.Sprintf("failed to copy '%s' to '%s': %s", cut(s.Args[0], 200), cut(s.Args[1], 200), cut(reason, maxMessage/2))
	default:
		return fmt.Sprintf("%s %s: %s", s.Kind, cut(strings.Join(s.Args, " "), 200), cut(reason, maxMessage/2))
	}
}

// What BuildKit puts before a reason that somebody can do something about.
var preambles = []*regexp.Regexp{
	regexp.MustCompile(`^failed to solve: `),
	regexp.MustCompile(`^failed to run Build function: `),
	regexp.MustCompile(`^rpc error: code = \w+ desc = `),
	regexp.MustCompile(`^failed to compute cache key: `),
	regexp.MustCompile(`^failed to calculate checksum of ref \S+: `),
	regexp.MustCompile(`^failed to load cache key: `),
}

// tidy removes preambles.
func tidy(s string) string {
	for again := true; again; {
		again = false
		for _, p := range preambles {
			if at := p.FindStringIndex(s); at != nil {
				s, again = s[at[1]:], true
			}
		}
	}
	return s
}

var userUnknown = regexp.MustCompile(`unable to find user ([^:]+): `)

// unknownUser returns the user that a step was to run as and that the image
// does not have, if reason says so.
func unknownUser(reason string) string {
	if m := userUnknown.FindStringSubmatch(reason); m != nil {
		return m[1]
	}
	return ""
}

func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
