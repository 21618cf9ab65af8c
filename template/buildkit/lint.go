package buildkit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

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
// Nothing is built and no registry is asked. A Dockerfile that is too large to
// be looked at is an error.
func (e *Engine) Lint(ctx context.Context, text string) ([]Problem, error) {
	all, err := e.lint(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	return all, nil
}

const lintTimeout = 30 * time.Second

func (e *Engine) lint(ctx context.Context, text string) ([]Problem, error) {
	own, err := ownFrontend(text)
	if err != nil {
		return []Problem{{Line: 1, Message: soulbox.MessageOf(err), Remedy: "remove the line, or name docker/dockerfile", Fatal: true}}, nil
	}
	s, err := parseStages(text, nil)
	switch {
	case soulbox.KindOf(err) == soulbox.TooLarge:
		return nil, err
	case err != nil: // and the linter says it with its place
		s = &stages{}
	}
	// BuildKit does it: what a Dockerfile makes of its variables may become
	// larger than we have room for.
	ctx, end := context.WithTimeout(ctx, lintTimeout)
	defer end()
	d, err := e.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer e.release()
	options := map[string]string{"filename": dockerfileName, "requestid": lint.RequestLint, "frontend.caps": "moby.buildkit.frontend.subrequests"}
	for _, name := range s.bases() {
		options["context:"+familiar(name)] = "docker-image://scratch" // any image will do
	}
	file := staticfs.NewFS()
	file.Add(dockerfileName, &types.Stat{Mode: dockerfileMode}, []byte(own))
	var found []byte
	_, err = d.client.Build(ctx, client.SolveOpt{
		LocalMounts: map[string]fsutil.FS{"dockerfile": file, "context": staticfs.NewFS()},
		SharedKey:   rand.Text(),
		Internal:    true,
		SourcePolicyProvider: policysession.NewPolicyProvider(func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gatewaypb.ResolveSourceMetaRequest, error) {
			action := spb.PolicyAction_DENY
			if strings.HasPrefix(req.GetSource().GetSource().GetIdentifier(), "local://") {
				action = spb.PolicyAction_ALLOW
			}
			return &policysession.DecisionResponse{Action: action}, nil, nil
		}),
	}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		res, err := c.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: options})
		if err != nil {
			return nil, err
		}
		found = res.Metadata["result.json"]
		return gateway.NewResult(), nil
	}, nil)
	if died := d.died(err); died != nil {
		return nil, died
	}
	if err != nil {
		return nil, err
	}
	var res lint.LintResults
	if err := json.Unmarshal(found, &res); err != nil {
		return nil, err
	}
	return problems(&res), nil
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
var remedies = map[string]string{ //nolint:gosec // no secrets, only words about them
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
