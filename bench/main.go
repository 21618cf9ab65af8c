// Command bench measures a SoulBox server from its clients' side and prints the
// table of docs/benchmarks.md. `make bench` builds and runs it.
//
// It starts a server of its own with a fresh data folder, so that nothing else
// is measured, and ends it. Each figure is taken by itself, one after another.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox/client"
)

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	rounds := flag.Int("rounds", 20, "how many sandboxes the SDK makes")
	soaking := flag.Duration("soak", 0, "instead: how long to run mixed load")
	data := flag.String("data", "", "data folder to use and keep (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *asJSON, *rounds, *data, *soaking)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A row is one figure with all of its samples.
type row struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Samples []float64 `json:"-"`
	N       int       `json:"n"`
	Median  float64   `json:"median"`
	P95     float64   `json:"p95"`
	Min     float64   `json:"min"`
	Note    string    `json:"note,omitempty"`
}

// summary fills in what is computed from the samples.
func (r row) summary() row {
	s := slices.Clone(r.Samples)
	slices.Sort(s)
	if r.N = len(s); r.N > 0 {
		r.Min, r.Median, r.P95 = s[0], quantile(s, 0.5), quantile(s, 0.95)
	}
	return r
}

// quantile is the nearest-rank quantile of sorted samples.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func run(ctx context.Context, asJSON bool, rounds int, data string, soaking time.Duration) (err error) {
	if data == "" {
		dir, err := os.MkdirTemp("", "soulbox-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		data = filepath.Join(dir, "data")
	}
	fmt.Fprintln(os.Stderr, "bench: starting a server (a new data folder builds its base template first)")
	srv, c, err := start(ctx, data, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()

	if soaking > 0 {
		fmt.Printf("Machine: %s\n\n", machine())
		return soak(ctx, srv, c, soaking)
	}
	var rows []row
	for _, part := range []struct {
		name    string
		measure func() ([]row, error)
	}{
		{"the JavaScript SDK", func() ([]row, error) { return sdk(ctx, srv, rounds, "warm") }},
		{"reads at 1,000 a second", func() ([]row, error) { return reads(ctx, srv) }},
		{"files", func() ([]row, error) { return files(ctx, c) }},
		{"create and destroy", func() ([]row, error) { return churn(ctx, c) }},
		{"creates without a warm pool", func() (rows []row, err error) {
			// From here on, of a server that makes nothing ahead.
			if err := srv.stop(); err != nil {
				return nil, err
			}
			if srv, c, err = start(ctx, data, false); err != nil {
				return nil, err
			}
			return sdk(ctx, srv, rounds, "cold")
		}},
		{"memory of idle sandboxes", func() ([]row, error) { return memory(ctx, c, data) }},
		{"Docker", func() ([]row, error) { return docker(ctx, data) }},
	} {
		fmt.Fprintln(os.Stderr, "bench: measuring", part.name)
		more, err := part.measure()
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		rows = append(rows, more...)
	}
	for i := range rows {
		rows[i] = rows[i].summary()
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"machine": machine(), "rows": rows})
	}
	fmt.Printf("Machine: %s\n\n| what | n | median | p95 | min | unit | note |\n|---|---|---|---|---|---|---|\n", machine())
	for _, r := range rows {
		if r.N == 0 {
			fmt.Printf("| %s | 0 | – | – | – | %s | %s |\n", r.Name, r.Unit, r.Note)
			continue
		}
		fmt.Printf("| %s | %d | %.1f | %.1f | %.1f | %s | %s |\n", r.Name, r.N, r.Median, r.P95, r.Min, r.Unit, r.Note)
	}
	return nil
}

// machine describes what was measured on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "?"
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%d cores, %s, Linux %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}

// A server is a process of bin/soulbox.
type server struct {
	cmd      *exec.Cmd
	data     string
	url, key string
}

const startTimeout = 5 * time.Minute

// start starts a server on a data folder and returns a client of it. Without
// warm, it makes no sandbox before it is asked for.
func start(ctx context.Context, data string, warm bool) (*server, *client.Client, error) {
	s, err := startServer(ctx, data, warm)
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(client.Options{APIURL: s.url, APIKey: s.key})
	if err != nil {
		return nil, nil, errors.Join(err, s.stop())
	}
	return s, c, nil
}

func startServer(ctx context.Context, data string, warm bool) (*server, error) {
	s := &server{data: data}
	log, err := os.Create(data + ".log")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: the folder above must exist", data)
	}
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics", "off"}
	if !warm {
		config := data + ".yaml"
		if err := os.WriteFile(config, []byte("warm_mb: -1\n"), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", config)
	}
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), "bin/soulbox", args...)
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
func sdk(ctx context.Context, s *server, rounds int, mode string) ([]row, error) {
	cmd := exec.CommandContext(ctx, "node", "bench/sdk.mjs", fmt.Sprint(rounds), mode)
	cmd.Env = s.env()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var got struct{ Create, First, Kill, Burst, Run, Inside []float64 }
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, err
	}
	if mode == "cold" {
		return []row{
			{Name: "create, none waits", Unit: "ms", Samples: got.Create, Note: "the same, with `warm_mb: -1`: every sandbox boots"},
			{Name: "create and first command's result, none waits", Unit: "ms", Samples: got.First},
		}, nil
	}
	overhead := row{Samples: got.Run}.summary().Median - row{Samples: got.Inside}.summary().Median
	return []row{
		{Name: "create", Unit: "ms", Samples: got.Create, Note: "e2b 2.51.0, a warm sandbox waits"},
		{Name: "create and first command's result", Unit: "ms", Samples: got.First},
		{Name: "create, burst of 20", Unit: "ms", Samples: got.Burst, Note: "at once, each from its own start; 20 wait"},
		{Name: "`commands.run('true')`", Unit: "ms", Samples: got.Run},
		{Name: "`bash -l -c true` inside", Unit: "ms", Samples: got.Inside, Note: "what bash itself costs"},
		{Name: "command overhead", Unit: "ms", Samples: []float64{overhead}, Note: "difference of the two medians above"},
		{Name: "kill", Unit: "ms", Samples: got.Kill},
	}, nil
}

const fileSize = 256 << 20

func files(ctx context.Context, c *client.Client) ([]row, error) {
	sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = sb.Kill(context.WithoutCancel(ctx)) }() // the server is purged in any case
	up := row{Name: "file upload", Unit: "MB/s", Note: "256 MiB through the proxy"}
	down := row{Name: "file download", Unit: "MB/s", Note: "the same file back"}
	content := make([]byte, fileSize)
	for range 5 {
		began := time.Now()
		if err := sb.WriteFile(ctx, "/home/user/big", bytes.NewReader(content)); err != nil {
			return nil, err
		}
		up.Samples = append(up.Samples, fileSize/1e6/time.Since(began).Seconds())
		began = time.Now()
		if _, err := sb.ReadFile(ctx, "/home/user/big", io.Discard); err != nil {
			return nil, err
		}
		down.Samples = append(down.Samples, fileSize/1e6/time.Since(began).Seconds())
	}
	return []row{up, down}, nil
}
