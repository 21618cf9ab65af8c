package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/soulbox/soulbox"
)

// A Problem is something in a Dockerfile that is wrong, or only not good.
type Problem struct {
	Line    int    // from 1; 0: the file as a whole
	Rule    string // such as StageNameCasing; empty for what BuildKit does not understand
	Message string // what is the matter
	Remedy  string // what to do about it
	URL     string // where more about the rule is written; may be empty
	Fatal   bool   // it cannot be built
}

// Lint reads a Dockerfile and returns what is the matter with it, by line.
// Only one that is too large to be looked at is an error.
func Lint(ctx context.Context, dockerfile string) ([]Problem, error) {
	if len(dockerfile) > maxDockerfile {
		return nil, soulbox.Errorf(soulbox.TooLarge, "the Dockerfile is larger than %d bytes", maxDockerfile)
	}
	if _, err := ownFrontend(dockerfile); err != nil {
		return []Problem{{Line: 1, Message: soulbox.MessageOf(err), Remedy: "remove the line, or name docker/dockerfile", Fatal: true}}, nil
	}
	text := []byte(dockerfile)
	source := llb.NewSourceMap(nil, dockerfileName, "Dockerfile", text)
	source.Definition = new(llb.Definition) // of how BuildKit got the file, which it did not
	res, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{
		SourceMap:    source,
		MetaResolver: anyImage{},
	})
	if err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	return problems(res), nil
}

func problems(res *lint.LintResults) []Problem {
	var all []Problem
	for _, w := range res.Warnings {
		p := Problem{Rule: w.RuleName, Message: w.Detail, Remedy: remedies[w.RuleName], URL: w.URL}
		if p.Message == "" {
			p.Message = w.Description
		}
		if p.Remedy == "" {
			p.Remedy = w.Description
		}
		if r := w.Location.GetRanges(); len(r) > 0 {
			p.Line = int(r[0].GetStart().GetLine())
		}
		all = append(all, p)
	}
	if e := res.Error; e != nil {
		p := Problem{Message: e.Message, Remedy: "correct the line: the Dockerfile cannot be built as it is", Fatal: true}
		if r := e.Location.GetRanges(); len(r) > 0 {
			p.Line = int(r[0].GetStart().GetLine())
		}
		if strings.Contains(e.Message, "no build stage") {
			p.Remedy = "begin with FROM and an image"
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return a.Line - b.Line })
	return all
}

// remedies says for each rule what to do. For one that is not here, BuildKit's
// description has to do.
var remedies = map[string]string{
	"StageNameCasing":                 "write the stage's name in lower case",
	"FromAsCasing":                    "write FROM and AS both in upper or both in lower case",
	"NoEmptyContinuation":             "remove the empty line behind the backslash",
	"ConsistentInstructionCasing":     "write all instructions in upper case",
	"DuplicateStageName":              "give each stage a name of its own",
	"ReservedStageName":               "choose another name than scratch or context",
	"JSONArgsRecommended":             `write the command as a list: ["program", "argument"]`,
	"MaintainerDeprecated":            "write LABEL org.opencontainers.image.authors=… instead",
	"UndefinedArgInFrom":              "declare the variable by ARG before the first FROM",
	"WorkdirRelativePath":             "give WORKDIR a path that begins with /",
	"UndefinedVar":                    "declare the variable by ARG or ENV, or correct its name",
	"MultipleInstructionsDisallowed":  "keep the last of these instructions only",
	"LegacyKeyValueFormat":            "write NAME=value instead of NAME value",
	"RedundantTargetPlatform":         "leave --platform=$TARGETPLATFORM away: it is the default",
	"SecretsUsedInArgOrEnv":           "use RUN --mount=type=secret: ARG and ENV stay in the image",
	"InvalidDefaultArgInFrom":         "give the ARG a default with which FROM names an image",
	"FromPlatformFlagConstDisallowed": "leave --platform away, or use $BUILDPLATFORM",
	"CopyIgnoredFile":                 "take the file out of .dockerignore",
	"InvalidDefinitionDescription":    "leave an empty line between the comment and the instruction",
	"ExposeProtoCasing":               "write the protocol in lower case: 80/tcp",
	"ExposeInvalidFormat":             "write port or port/protocol only",
}

// anyImage knows every image, and nothing about it: linting asks no registry.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	img := ocispecs.Image{Platform: ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	config, err := json.Marshal(img)
	return ref, digest.FromBytes(config), config, err
}
