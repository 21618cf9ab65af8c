package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/soulbox/soulbox/client"
)

// seconds is how long something is measured over time: as many as there are
// samples of a create, at most most.
func (r *runner) seconds(most int) int { return min(most, r.Samples) }

// reads asks for the list of sandboxes a thousand times a second. Requests
// start on a schedule, and each is measured from when it was due, so that a
// slow answer does not hide behind a late question.
func reads(ctx context.Context, r *runner, rows []*Row) error {
	const rate, most, listed, warmUp = 1000, 10, 10, 100
	for range listed {
		if _, _, err := r.create(ctx); err != nil {
			return err
		}
	}
	if _, err := r.settle(ctx); err != nil {
		return err
	}
	row := rows[0]
	row.WarmUp = warmUp
	n := warmUp + rate*r.seconds(most)
	took := make([]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	defer wg.Wait()
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / rate)
		if err := wait(ctx, time.Until(due)); err != nil {
			return err
		}
		wg.Go(func() {
			for _, err := range r.api.Sandboxes.List(ctx, client.ListOptions{}) {
				if err != nil {
					errs[i] = err
				}
			}
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	var last error
	for i := warmUp; i < n; i++ {
		if errs[i] != nil {
			row.Failed, last = row.Failed+1, errs[i]
			continue
		}
		row.Took(took[i])
	}
	row.Note = fmt.Sprintf("open loop, %d s", r.seconds(most))
	if len(row.samples) == 0 {
		return last
	}
	return nil
}

// churn makes and ends sandboxes as fast as the server can, and counts them by
// the second.
func churn(ctx context.Context, r *runner, rows []*Row) error {
	const most, clients = 15, 4
	row := rows[0]
	row.WarmUp = 1 // second
	length := time.Duration(row.WarmUp+r.seconds(most)) * time.Second
	var mu sync.Mutex
	counts := make([]float64, row.WarmUp+r.seconds(most))
	began := time.Now()
	err := inParallel(clients, clients, func(int) error {
		for time.Since(began) < length {
			sb, _, err := r.create(ctx)
			if err == nil {
				err = r.keep.kill(ctx, sb.ID)
			}
			if err != nil {
				return err
			}
			mu.Lock()
			if s := int(time.Since(began) / time.Second); s < len(counts) {
				counts[s]++
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	row.Add(counts[row.WarmUp:]...)
	row.Note = "a sample is a second"
	return nil
}

// files sends zeros through the server into a file, and back.
func files(ctx context.Context, r *runner, rows []*Row) error {
	const path = "/tmp/soulbox-bench"
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	content := make([]byte, r.FileSize)
	up, down := rows[0], rows[1]
	for i := range 1 + r.fewer() {
		began := time.Now()
		if err := sb.WriteFile(ctx, path, bytes.NewReader(content)); err != nil {
			return err
		}
		wrote := time.Since(began)
		began = time.Now()
		n, err := sb.ReadFile(ctx, path, io.Discard)
		if err != nil {
			return err
		}
		if n != int64(len(content)) {
			return fmt.Errorf("%d bytes came back of %d", n, len(content))
		}
		if i > 0 {
			const mega = 1e6
			up.Add(float64(len(content)) / mega / wrote.Seconds())
			down.Add(float64(len(content)) / mega / time.Since(began).Seconds())
		}
		r.Progress(fmt.Sprintf("measuring %s: %d of %d", up.What, i, r.fewer()))
	}
	for _, row := range rows {
		row.WarmUp = 1
		row.Note = fmt.Sprintf("%d MiB of zeros", len(content)>>20)
	}
	return nil
}
