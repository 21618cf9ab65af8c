package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox/client"
)

// soak keeps clients busy with creates, commands, files and kills for a while
// and looks whether anything fails and whether the server's memory stays flat.
func soak(ctx context.Context, srv *server, c *client.Client, length time.Duration) error {
	const clients, idle = 16, 200
	if err := density(ctx, c, idle); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	t := &tally{count: map[string]int{}, failed: map[string]int{}}
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				t.life(context.WithoutCancel(ctx), c, i)
			}
		})
	}
	fmt.Println("\n| minute | operations | failed | server's memory, MB | open files | threads |")
	fmt.Println("|---|---|---|---|---|---|")
	began := time.Now()
	var memory []int
	for every := time.NewTicker(time.Minute); ctx.Err() == nil; {
		select {
		case <-every.C:
		case <-ctx.Done():
			every.Stop()
		}
		rss, files, threads, err := weigh(srv.cmd.Process.Pid)
		if err != nil {
			return fmt.Errorf("the server is gone: %w", err)
		}
		memory = append(memory, rss)
		done, failed := t.sum()
		fmt.Printf("| %.0f | %d | %d | %d | %d | %d |\n", time.Since(began).Minutes(), done, failed, rss, files, threads)
	}
	wg.Wait()
	fmt.Println()
	for what, n := range t.count {
		fmt.Printf("%s: %d\n", what, n)
	}
	for why, n := range t.failed {
		fmt.Printf("failed %d times: %s\n", n, why)
	}
	if _, failed := t.sum(); failed > 0 {
		return fmt.Errorf("%d operations failed", failed)
	}
	return flat(memory)
}

// flat compares the median of the last third with that of the middle third;
// the first third is warming up.
func flat(memory []int) error {
	third := len(memory) / 3
	if third < 3 {
		return nil // too short to tell
	}
	median := func(part []int) int {
		return slices.Sorted(slices.Values(part))[(len(part)-1)/2]
	}
	middle, last := median(memory[third:2*third]), median(memory[2*third:])
	fmt.Printf("server's memory: %d MB in the middle third, %d MB in the last\n", middle, last)
	const growth = 1.15
	if float64(last) > float64(middle)*growth {
		return fmt.Errorf("the server's memory grew from %d to %d MB", middle, last)
	}
	return nil
}

// A tally counts what was done and what went wrong. Safe for concurrent use.
type tally struct {
	mu     sync.Mutex
	count  map[string]int
	failed map[string]int
}

func (t *tally) note(what string, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count[what]++
	if err != nil {
		t.failed[what+": "+err.Error()]++
	}
	return err == nil
}

func (t *tally) sum() (done, failed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.count {
		done += n
	}
	for _, n := range t.failed {
		failed += n
	}
	return done, failed
}

// life is one sandbox from create to kill, with some work between.
func (t *tally) life(ctx context.Context, c *client.Client, who int) {
	const patience = time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{Metadata: map[string]string{"client": strconv.Itoa(who)}})
	if !t.note("create", err) {
		return
	}
	defer func() { t.note("kill", c.Sandboxes.Kill(context.WithoutCancel(ctx), sb.ID)) }()
	for range 3 + mathrand.IntN(6) {
		switch mathrand.IntN(5) {
		case 0:
			want := strconv.Itoa(mathrand.IntN(1000))
			res, err := sb.Run(ctx, "echo "+want, client.RunOptions{})
			if err == nil && strings.TrimSpace(res.Stdout) != want {
				err = fmt.Errorf("echo said %q instead of %q", res.Stdout, want)
			}
			t.note("command", err)
		case 1:
			_, err := sb.Run(ctx, "exit 3", client.RunOptions{})
			var exit *client.ExitError
			if errors.As(err, &exit) && exit.Code == 3 {
				err = nil
			}
			t.note("failing command", err)
		case 2:
			_, err := sb.Run(ctx, "python3 -c 'print(sum(range(100000)))'", client.RunOptions{})
			t.note("python", err)
		case 3:
			data := make([]byte, 1+mathrand.IntN(1<<20))
			_, _ = rand.Read(data) // never fails: crypto/rand ends the program instead
			err := sb.WriteFile(ctx, "/home/user/file", bytes.NewReader(data))
			if t.note("write file", err) {
				var back bytes.Buffer
				_, err := sb.ReadFile(ctx, "/home/user/file", &back)
				if err == nil && !bytes.Equal(back.Bytes(), data) {
					err = errors.New("the file came back changed")
				}
				t.note("read file", err)
			}
		case 4:
			_, err := c.Sandboxes.Get(ctx, sb.ID)
			t.note("info", err)
		}
	}
}

// density makes many sandboxes that do nothing, asks each for a sign of life,
// and ends them.
func density(ctx context.Context, c *client.Client, n int) error {
	before, err := available()
	if err != nil {
		return err
	}
	began := time.Now()
	boxes := make([]*client.Sandbox, n)
	each := func(do func(i int) error) error {
		var wg sync.WaitGroup
		errs := make([]error, n)
		slots := make(chan struct{}, 4)
		for i := range n {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				errs[i] = do(i)
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	err = each(func(i int) (err error) {
		boxes[i], err = c.Sandboxes.Create(ctx, client.CreateOptions{Timeout: time.Hour})
		return err
	})
	if err != nil {
		return err
	}
	made := time.Since(began)
	const settle = 5 * time.Second
	time.Sleep(settle)
	after, err := available()
	if err != nil {
		return err
	}
	err = each(func(i int) error {
		_, err := boxes[i].Run(ctx, "true", client.RunOptions{})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d idle sandboxes at once: made in %.1f s (4 clients), all answer, %.1f MB of free memory each\n",
		n, made.Seconds(), float64(before-after)/float64(n)/1000)
	return each(func(i int) error { return boxes[i].Kill(ctx) })
}

// weigh returns a process's resident memory in MB, its open files and threads.
func weigh(pid int) (rss, files, threads int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			rss, err = strconv.Atoi(f[1])
			rss /= 1000
		case strings.HasPrefix(line, "Threads:"):
			threads, err = strconv.Atoi(f[1])
		}
		if err != nil {
			return 0, 0, 0, err
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return rss, len(fds), threads, err
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
