package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox/client"
)

// reads asks for the list of sandboxes a thousand times a second. Requests
// start on a schedule, and each is measured from when it was due, so that a
// slow answer does not hide behind a late question.
func reads(ctx context.Context, s *server) ([]row, error) {
	const rate, seconds = 1000, 10
	c, err := client.New(client.Options{APIURL: s.url, APIKey: s.key})
	if err != nil {
		return nil, err
	}
	for range 10 {
		sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
		if err != nil {
			return nil, err
		}
		defer func() { _ = sb.Kill(context.WithoutCancel(ctx)) }() // the server is purged in any case
	}
	httpClient := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}, Timeout: time.Minute}
	defer httpClient.CloseIdleConnections()
	var mu sync.Mutex
	out := row{Name: "GET /v2/sandboxes at 1,000/s", Unit: "ms", Note: "open loop, 10 s, 10 sandboxes listed"}
	var wg sync.WaitGroup
	var failed error
	began := time.Now()
	for i := range rate * seconds {
		due := began.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v2/sandboxes", nil)
			if err == nil {
				req.Header.Set("X-API-KEY", s.key)
				var res *http.Response
				if res, err = httpClient.Do(req); err == nil {
					res.Body.Close()
					if res.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %d", res.StatusCode)
					}
				}
			}
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			out.Samples = append(out.Samples, float64(took.Microseconds())/1000)
		})
	}
	wg.Wait()
	return []row{out}, failed
}

// memory makes idle sandboxes and reads what their processes have for
// themselves, and by how much the machine's free memory fell.
func memory(ctx context.Context, c *client.Client, data string) ([]row, error) {
	const n = 20
	const settle = 3 * time.Second
	before, err := available()
	if err != nil {
		return nil, err
	}
	for range n {
		sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
		if err != nil {
			return nil, err
		}
		defer func() { _ = sb.Kill(context.WithoutCancel(ctx)) }() // the server is purged in any case
	}
	time.Sleep(settle)
	after, err := available()
	if err != nil {
		return nil, err
	}
	private := row{Name: "private memory of an idle sandbox", Unit: "MB", Note: "sentry and stubs, from smaps_rollup"}
	dirs, err := os.ReadDir(filepath.Join(data, "sandboxes"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		kb, err := privateOf(filepath.Join(data, "sandboxes", d.Name()))
		if err != nil {
			return nil, err
		}
		private.Samples = append(private.Samples, float64(kb)/1000)
	}
	all := row{
		Name: "free memory that 20 of them took, each", Unit: "MB", Samples: []float64{float64(before-after) / n / 1000},
		Note: "by MemAvailable, the server's share included",
	}
	return []row{private, all}, nil
}

// available is MemAvailable in KiB.
func available() (int, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemAvailable")
}

// privateOf sums the private memory, in KiB, of the sentry with the bundle
// folder dir and of its children.
func privateOf(dir string) (int, error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var root string
	parent := map[string]string{}
	for _, p := range procs {
		if b, err := os.ReadFile(filepath.Join(p, "cmdline")); err == nil && strings.Contains(string(b), "--bundle="+dir+"\x00") {
			root = filepath.Base(p)
		}
		if b, err := os.ReadFile(filepath.Join(p, "stat")); err == nil {
			f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
			parent[filepath.Base(p)] = f[1]
		}
	}
	sum := 0
	for pid := range parent {
		for at := pid; at != "" && at != "0"; at = parent[at] {
			if at == root {
				kb, err := private(pid)
				if err != nil {
					return 0, err
				}
				sum += kb
				break
			}
		}
	}
	return sum, nil
}

func private(pid string) (int, error) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Private_") {
			n, err := strconv.Atoi(strings.Fields(line)[1])
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// churn makes and ends sandboxes as fast as the machine can.
func churn(ctx context.Context, c *client.Client) ([]row, error) {
	const seconds, clients = 15, 4
	ctx, cancel := context.WithTimeout(ctx, seconds*time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	count := 0
	var failed error
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				sb, err := c.Sandboxes.Create(context.WithoutCancel(ctx), client.CreateOptions{})
				if err == nil {
					err = sb.Kill(context.WithoutCancel(ctx))
				}
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					count++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return []row{{
		Name: "create and destroy, sustained", Unit: "per second", Samples: []float64{float64(count) / time.Since(began).Seconds()},
		Note: "4 clients, 15 s",
	}}, failed
}

// docker measures the same with Docker, where an engine answers.
func docker(ctx context.Context, data string) ([]row, error) {
	if exec.CommandContext(ctx, "docker", "info").Run() != nil {
		return []row{{Name: "docker run, docker exec", Unit: "ms", Note: "no Docker engine on this machine"}}, nil
	}
	images, err := filepath.Glob(filepath.Join(data, "images", "*.erofs"))
	if err != nil || len(images) == 0 {
		return nil, fmt.Errorf("no image in %s: %w", data, err)
	}
	tree, err := os.MkdirTemp("", "soulbox-bench-tree-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tree)
	steps := "fsck.erofs --extract=" + tree + "/root " + images[0] + " && tar -C " + tree + "/root -c . | docker import - soulbox-bench"
	if out, err := exec.CommandContext(ctx, "bash", "-c", steps).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("bring the base image into Docker: %w: %s", err, out)
	}
	once := row{Name: "docker run --rm, same root", Unit: "ms"}
	exe := row{Name: "docker exec bash -l -c true", Unit: "ms"}
	timed := func(r *row, args ...string) error {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("docker %v: %w: %s", args, err, out)
		}
		r.Samples = append(r.Samples, float64(time.Since(began).Microseconds())/1000)
		return nil
	}
	for range 10 {
		if err := timed(&once, "run", "--rm", "soulbox-bench", "/bin/bash", "-l", "-c", "true"); err != nil {
			return nil, err
		}
	}
	start := row{}
	if err := timed(&start, "run", "-d", "--name", "soulbox-bench", "soulbox-bench", "sleep", "600"); err != nil {
		return nil, err
	}
	defer func() {
		_ = exec.CommandContext(context.WithoutCancel(ctx), "docker", "rm", "-f", "soulbox-bench").Run()
	}() // nothing to do about it
	for range 50 {
		if err := timed(&exe, "exec", "soulbox-bench", "/bin/bash", "-l", "-c", "true"); err != nil {
			return nil, err
		}
	}
	return []row{once, exe}, nil
}
