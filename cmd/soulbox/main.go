// Command soulbox is the server of SoulBox and the command line for it.
//
// Each verb is a file that does three things: read flags, ask package client,
// print. What the verbs share has files of its own:
//
//	cli.go       the streams, the global flags and the way to a server
//	paths.go     where the server keeps its data, and the operator's own key
//	list.go      verbs that list things
//	print.go     tables for people, tab-separated text for programs, JSON
//	progress.go  what is shown while one waits
//	fail.go      errors: the sentence, the hint, the exit code
//	lease.go     keeps a sandbox alive while somebody is using it
//	archive.go   folders as tar archives
//
// docs/cli.md is the manual.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run())
}

// run exists because os.Exit skips what was deferred.
func run() int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	c := newCLI(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	err := rootCommand(c).ExecuteContext(ctx)
	return c.report(err)
}

// rootCommand is the list of the verbs.
func rootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "soulbox",
		Short: "Run code that nobody has read, in sandboxes of your own",
		Long: "SoulBox runs code that nobody has read in sandboxes on your own machine,\n" +
			"for the clients you already have: E2B's SDKs and command line, unmodified.",
		SilenceErrors: true, // report prints them
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          help,
		PersistentPreRun: func(*cobra.Command, []string) {
			c.started = true
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.data, "data", "", "the server's data folder (default $SOULBOX_DATA, or "+defaultData(c.getenv, os.Geteuid())+")")
	flags.StringVar(&c.apiURL, "api-url", "", "the server's URL (default $E2B_API_URL, or what the data folder says)")
	flags.StringVar(&c.apiKey, "api-key", "", "the API key (default $E2B_API_KEY, or what the data folder says)")
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)

	root.AddCommand(serveCommand(c))
	root.AddCommand(doctorCommand(c))
	root.AddCommand(purgeCommand(c))
	root.AddCommand(envCommand(c))
	root.AddCommand(runCommand(c))
	root.AddCommand(sandboxCommand(c))
	root.AddCommand(snapshotCommand(c))
	root.AddCommand(checkpointCommand(c))
	root.AddCommand(sessionCommand(c))
	root.AddCommand(notebookCommand(c))
	root.AddCommand(packagesCommand(c))
	root.AddCommand(analyzeCommand(c))
	root.AddCommand(visualizeCommand(c))
	root.AddCommand(templateCommand(c))
	root.AddCommand(benchCommand(c))
	root.AddCommand(poolCommand(c))
	root.AddCommand(keyCommand(c))
	root.AddCommand(versionCommand(c))
	return root
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// interruptible returns a context that the first signal to stop ends, so that
// what was started is cleaned up. The second one ends the program at once.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	wanted := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) { // else nohup, or a shell's & in a script, asked for it
			wanted = append(wanted, s)
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, wanted...)
	// Without this, a reader of our output that goes away would end the program
	// before it has destroyed its sandbox. Now the write fails instead.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-signals:
			if s, ok := s.(syscall.Signal); ok {
				cancel(interrupted{s})
			}
			signal.Stop(signals)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		signal.Stop(signals)
	}
}
