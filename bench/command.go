package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

const (
	perSandbox    = 5 // samples of a command for each that a create has
	commandWarmUp = 5
)

// command measures the round trip of a command, and what of it is not spent
// inside: there, a program starts the same shell as the agent does and waits.
func command(ctx context.Context, r *runner, rows []*Row) error {
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	n := perSandbox * r.Samples
	round, overhead := rows[0], rows[1]
	err = r.times(ctx, round, commandWarmUp, n, func() (time.Duration, error) {
		began := time.Now()
		_, err := sb.Run(ctx, doNothing, client.RunOptions{})
		return time.Since(began), err
	})
	if err != nil {
		return err
	}
	r.Progress("measuring the same command inside")
	inside, err := inside(ctx, sb, n)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		overhead.Note = "not measured: what it takes inside is measured by python3, which gave no answer there"
		return nil
	}
	overhead.WarmUp = commandWarmUp
	for _, s := range round.samples {
		overhead.Add(s - inside) // below 0, if it had better luck than most inside
	}
	overhead.Note = fmt.Sprintf("inside it takes %.1f ms", inside)
	return nil
}

// script starts the shell sys.argv[1] times. The program comes from the
// client's own way to run a command.
const script = `
import json, os, sys, time
out = []
for _ in range(int(sys.argv[1])):
    began = time.monotonic()
    pid = os.posix_spawn('/bin/bash', ['/bin/bash', '-l', '-c', 'true'], os.environ)
    os.waitpid(pid, 0)
    out.append((time.monotonic() - began) * 1000)
print(json.dumps(out))
`

// inside returns the median in milliseconds of n commands, measured inside.
func inside(ctx context.Context, sb *client.Sandbox, n int) (float64, error) {
	res, err := sb.Exec(ctx, []string{"python3", "-c", script, fmt.Sprint(commandWarmUp + n)}, client.RunOptions{})
	if err != nil {
		return 0, err
	}
	// The sandbox may say what it likes; the client bounds how much.
	var took []float64
	if err := json.Unmarshal([]byte(res.Stdout), &took); err != nil || len(took) != commandWarmUp+n {
		return 0, soulbox.Errorf(soulbox.Unavailable, "the program inside did not say how long its commands took")
	}
	return median(slices.Clone(took[commandWarmUp:])), nil
}
