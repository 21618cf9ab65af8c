// Command alone measures a SoulBox server that has nothing else to do, and
// prints the table of docs/benchmarks.md: `make bench` builds and runs it.
//
// It starts a server of its own with a fresh data folder and ends it. The rows
// are those of `soulbox bench`, which it runs, and those of the published
// JavaScript SDK. With -soak it puts mixed load on the server instead.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
)

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	samples := flag.Int("samples", bench.DefaultSamples, "how many samples of a create")
	soaking := flag.Duration("soak", 0, "instead: how long to run mixed load")
	code := flag.Bool("interpreter", false, "instead: only the rows of the code interpreter")
	data := flag.String("data", "", "data folder to use and keep (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *asJSON, *samples, *data, *soaking, *code)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, asJSON bool, samples int, data string, soaking time.Duration, onlyCode bool) (err error) {
	if data == "" {
		dir, err := os.MkdirTemp("", "soulbox-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		data = filepath.Join(dir, "data")
	}
	fmt.Fprintln(os.Stderr, "bench: starting a server (a new data folder builds its base template first)")
	settings := allowContainers
	if onlyCode {
		settings = withInterpreter
	}
	srv, err := startServer(ctx, data, settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	if onlyCode {
		report := &bench.Report{At: time.Now().UTC().Truncate(time.Second), Server: srv.url, Template: interpreterTemplate, Machine: bench.ThisMachine()}
		if report.Rows, err = interpreter(ctx, srv, samples); err != nil {
			return err
		}
		return show(report, asJSON)
	}
	if soaking > 0 {
		c, err := client.New(client.Options{APIURL: srv.url, APIKey: srv.key})
		if err != nil {
			return err
		}
		fmt.Printf("Machine: %v\n\n", bench.ThisMachine())
		return soak(ctx, srv, c, soaking)
	}

	fmt.Fprintln(os.Stderr, "bench: measuring with the JavaScript SDK")
	rows, err := sdk(ctx, srv, samples, "warm")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bench: measuring with the Go client")
	report, err := measured(ctx, srv, samples)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bench: measuring a server that makes nothing ahead")
	if err := srv.stop(); err != nil {
		return err
	}
	if srv, err = startServer(ctx, data, allowContainers+"warm_mb: -1\n"); err != nil {
		return err
	}
	cold, err := sdk(ctx, srv, samples, "cold")
	if err != nil {
		return err
	}
	boot, err := measured(ctx, srv, samples, "create-boot", "template-create-cold", "template-first-request", "burst-20", "burst-100")
	if err != nil {
		return err
	}
	for _, row := range boot.Rows {
		row.Name += "-no-pool"
		row.Note = "with `warm_mb: -1`"
	}
	if err := srv.stop(); err != nil {
		return err
	}
	if srv, err = startServer(ctx, data, withInterpreter); err != nil {
		return err
	}
	code, err := interpreter(ctx, srv, samples)
	if err != nil {
		return err
	}
	for _, row := range append(rows, cold...) {
		row.Summarize()
	}
	report.Rows = append(append(append(append(report.Rows, boot.Rows...), rows...), cold...), code...)
	return show(report, asJSON)
}

func show(report *bench.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	return report.Markdown(os.Stdout)
}

// measured runs `soulbox bench`. Rows that could not be measured say so in the
// report, and no error is made of them here.
func measured(ctx context.Context, s *server, samples int, rows ...string) (*bench.Report, error) {
	cmd := exec.CommandContext(ctx, "bin/soulbox", "bench", "--json", "--samples", strconv.Itoa(samples), "--rows", strings.Join(rows, ","))
	cmd.Env = s.env()
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it removes what it has made
	out, err := cmd.Output()
	report := &bench.Report{}
	if decode := json.Unmarshal(out, report); decode != nil {
		return nil, fmt.Errorf("soulbox bench: %w", errors.Join(err, decode))
	}
	return report, nil
}

// A server is a process of bin/soulbox.
type server struct {
	cmd      *exec.Cmd
	data     string
	url, key string
}

const startTimeout = 5 * time.Minute

// allowContainers is the setting that lets rows of containers be measured.
const allowContainers = "isolation: [gvisor, runc]\n"

// startServer starts a server with these settings on a data folder.
func startServer(ctx context.Context, data, settings string) (*server, error) {
	s := &server{data: data}
	log, err := os.Create(data + ".log")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: the folder above must exist", data)
	}
	if err != nil {
		return nil, err
	}
	defer log.Close()
	config := data + ".yaml"
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), "bin/soulbox", "serve",
		"--data", data, "--config", config, "--listen", "127.0.0.1:0", "--metrics", "off")
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(b), "\nSoulBox listens on ") || strings.HasPrefix(string(b), "SoulBox listens on ") {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("the server does not listen; see %s", log.Name()), s.stop())
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, err := os.ReadFile(filepath.Join(data, "client.json"))
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	var cred struct {
		URL string `json:"api_url"`
		Key string `json:"api_key"`
	}
	if err := json.Unmarshal(b, &cred); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.url, s.key = cred.URL, cred.Key
	return s, nil
}

// stop ends the server and its sandboxes.
func (s *server) stop() error {
	err := errors.Join(s.cmd.Process.Signal(syscall.SIGTERM), s.cmd.Wait())
	out, purge := exec.CommandContext(context.Background(), "bin/soulbox", "purge", "--yes", "--data", s.data).CombinedOutput()
	if purge != nil {
		err = errors.Join(err, fmt.Errorf("purge: %w: %s", purge, out))
	}
	return err
}

// env is what the SDKs read.
func (s *server) env() []string {
	return append(os.Environ(), "E2B_API_KEY="+s.key, "E2B_API_URL="+s.url, "E2B_SANDBOX_URL="+s.url)
}

// sdk measures through the published JavaScript SDK. mode is that of sdk.mjs.
func sdk(ctx context.Context, s *server, rounds int, mode string) ([]*bench.Row, error) {
	cmd := exec.CommandContext(ctx, "node", "bench/sdk.mjs", strconv.Itoa(rounds), mode)
	cmd.Env = s.env()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bench/sdk.mjs: %w", err)
	}
	var got struct{ Create, First, Kill, Burst, Run []float64 }
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, fmt.Errorf("bench/sdk.mjs: %w", err)
	}
	row := func(name, what string, samples []float64) *bench.Row {
		r := &bench.Row{Name: name, What: what, Unit: "ms", WarmUp: 1, Note: "e2b 2.51.0"}
		r.Add(samples...)
		return r
	}
	if mode == "cold" {
		return []*bench.Row{
			row("sdk-create-no-pool", "Sandbox.create, `warm_mb: -1`", got.Create),
			row("sdk-first-command-no-pool", "the same and commands.run('true')", got.First),
		}, nil
	}
	return []*bench.Row{
		row("sdk-create", "Sandbox.create, one waits", got.Create),
		row("sdk-first-command", "Sandbox.create and commands.run('true')", got.First),
		row("sdk-burst-20", "20 times Sandbox.create at once, each", got.Burst),
		row("sdk-command", "commands.run('true')", got.Run),
		row("sdk-kill", "sandbox.kill", got.Kill),
	}, nil
}
