package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// usualWithin is how long an analysis may take that does not say.
	usualWithin = 10 * time.Minute
	// grace is what the interpreter has to tell that the time is up.
	grace = time.Minute
)

// Analyze runs code on data in a sandbox of the team and calls give with what
// came of it. body is a JSON object as the interpreter knows it, with more
// places where data may come from.
func (l *Lab) Analyze(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error {
	var sources []*source
	members, within, err := readQuestion(body)
	if err != nil {
		return err
	}
	if raw, ok := members["datasets"]; ok {
		var all []json.RawMessage
		if json.Unmarshal(raw, &all) != nil {
			return soulbox.Errorf(soulbox.Invalid, "datasets must be an array")
		}
		if len(all) > maxDatasets {
			return soulbox.Errorf(soulbox.Invalid, "datasets: there are %d, and at most %d are possible", len(all), maxDatasets)
		}
		for i, one := range all {
			s, err := readSource(one, fmt.Sprintf("datasets[%d]", i))
			if err != nil {
				return err
			}
			sources = append(sources, s)
		}
	}
	return l.withData(ctx, team, id, "/analyze", members, sources, within, func() any {
		all := make([]map[string]json.RawMessage, len(sources))
		for i, s := range sources {
			all[i] = s.members
		}
		return all
	}, "datasets", give)
}

// Visualize draws data in a sandbox of the team and calls give with what came of
// it. body is as for [Lab.Analyze].
func (l *Lab) Visualize(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error {
	var sources []*source
	members, within, err := readQuestion(body)
	if err != nil {
		return err
	}
	if raw, ok := members["dataset"]; ok {
		s, err := readSource(raw, "dataset")
		if err != nil {
			return err
		}
		sources = append(sources, s)
	}
	return l.withData(ctx, team, id, "/visualize", members, sources, within, func() any { return sources[0].members }, "dataset", give)
}

// withData brings the sources, asks, and cleans up. told is what the
// interpreter is told of them, as a member of the question.
func (l *Lab) withData(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, path string, members map[string]json.RawMessage, sources []*source, within time.Duration, told func() any, as string, give func(soulbox.Reply) error) error {
	clean, err := l.bring(ctx, team, id, sources)
	defer clean()
	if err != nil {
		return err
	}
	if len(sources) > 0 {
		b, err := json.Marshal(told())
		if err != nil {
			return fmt.Errorf("ask sandbox %s: %w", id, err)
		}
		members[as] = b
	}
	body, err := json.Marshal(members)
	if err != nil {
		return fmt.Errorf("ask sandbox %s: %w", id, err)
	}
	return l.Ask(ctx, team, id, soulbox.Question{Verb: http.MethodPost, Path: path, Body: body, Status: http.StatusOK, Within: within}, give)
}

// readQuestion reads the members of a question, and how long its answer may
// take.
func readQuestion(body []byte) (members map[string]json.RawMessage, within time.Duration, err error) {
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return nil, 0, soulbox.Errorf(soulbox.Invalid, "the body must be a JSON object")
	}
	within, err = Within(members["timeout_seconds"], usualWithin)
	return members, within + grace, err
}

// Within reads how many seconds something may take; nothing is otherwise.
func Within(raw json.RawMessage, otherwise time.Duration) (time.Duration, error) {
	if raw == nil || string(raw) == "null" {
		return otherwise, nil
	}
	var seconds float64
	if json.Unmarshal(raw, &seconds) != nil || seconds <= 0 || seconds > MaxWithin.Seconds() {
		return 0, soulbox.Errorf(soulbox.Invalid, "timeout_seconds must be a number above 0 and at most %d", int(MaxWithin/time.Second))
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

func refusedBy(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
