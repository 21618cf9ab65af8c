package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

const (
	lifetime  = 15 * time.Minute // of a sandbox of ours, should we be killed
	clearTime = 2 * time.Minute  // for removing all that was made
	hands     = 8                // that remove at once
	tag       = "soulbox-bench"  // the metadata by which our sandboxes are found
)

// A keeper knows what was made on the server and removes it. It makes things
// without heed to ctx, so that an interrupt leaves nothing that nobody knows
// of. Safe for concurrent use.
type keeper struct {
	api *client.Client
	run string

	mu        sync.Mutex
	boxes     map[string]bool // +checklocks:mu
	snapshots map[string]bool // +checklocks:mu
	templates map[string]bool // +checklocks:mu
}

func newKeeper(api *client.Client, run string) *keeper {
	return &keeper{api: api, run: run, boxes: map[string]bool{}, snapshots: map[string]bool{}, templates: map[string]bool{}}
}

// create makes a sandbox and tells how long that took. GVisor is what the
// template says: nothing is asked for, as by E2B's clients.
func (k *keeper) create(ctx context.Context, template string, class soulbox.Isolation) (*client.Sandbox, time.Duration, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	o := client.CreateOptions{Template: template, Timeout: lifetime, Metadata: map[string]string{tag: k.run}}
	if class != soulbox.GVisor {
		o.Isolation = &class
	}
	began := time.Now()
	sb, err := k.api.Sandboxes.Create(context.WithoutCancel(ctx), o)
	took := time.Since(began)
	if err != nil {
		return nil, 0, err
	}
	k.hold(sb.ID)
	return sb, took, nil
}

func (k *keeper) hold(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.boxes[id] = true
}

// kill ends a sandbox.
func (k *keeper) kill(ctx context.Context, id string) error {
	err := k.api.Sandboxes.Kill(context.WithoutCancel(ctx), id)
	if err != nil && soulbox.KindOf(err) != soulbox.NotFound {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.boxes, id)
	return nil
}

// snapshot keeps a sandbox and returns the snapshot's id.
func (k *keeper) snapshot(ctx context.Context, id string) (string, error) {
	snap, err := k.api.Sandboxes.Snapshot(context.WithoutCancel(ctx), id, k.run)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.snapshots[snap] = true
	return snap, nil
}

// build builds a template of ours and tells how long that took, from the request
// to the news that it is ready.
func (k *keeper) build(ctx context.Context, name string, o client.BuildOptions) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	k.mu.Lock()
	k.templates[name] = true
	k.mu.Unlock()
	began := time.Now()
	started, err := k.api.Templates.Build(context.WithoutCancel(ctx), name, o)
	if err != nil {
		return 0, err
	}
	_, err = k.api.Templates.Wait(ctx, started.Template.ID, string(started.Build.ID), nil)
	return time.Since(began), err
}

// removeTemplate removes one of ours. What is being built of it is given up.
func (k *keeper) removeTemplate(ctx context.Context, name string) error {
	err := k.api.Templates.Delete(context.WithoutCancel(ctx), name)
	if err != nil && soulbox.KindOf(err) != soulbox.NotFound {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.templates, name)
	return nil
}

// clear removes everything, also after ctx has ended. What it could not remove
// it still knows.
func (k *keeper) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTime)
	defer cancel()
	// A create whose answer was lost has made a sandbox all the same.
	var failed error
	for info, err := range k.api.Sandboxes.List(ctx, client.ListOptions{Metadata: map[string]string{tag: k.run}}) {
		if err != nil {
			failed = err
			break
		}
		k.hold(info.ID)
	}
	k.mu.Lock()
	var boxes, snapshots, templates []string
	for id := range k.boxes {
		boxes = append(boxes, id)
	}
	for id := range k.snapshots {
		snapshots = append(snapshots, id)
	}
	for name := range k.templates {
		templates = append(templates, name)
	}
	k.mu.Unlock()
	failed = errors.Join(failed, inParallel(hands, len(boxes), func(i int) error { return k.kill(ctx, boxes[i]) }))
	for _, id := range snapshots {
		err := k.api.Sandboxes.RemoveSnapshot(ctx, id)
		if err != nil && soulbox.KindOf(err) != soulbox.NotFound {
			failed = errors.Join(failed, err)
			continue
		}
		k.mu.Lock()
		delete(k.snapshots, id)
		k.mu.Unlock()
	}
	for _, name := range templates {
		failed = errors.Join(failed, k.removeTemplate(ctx, name))
	}
	return failed
}

// inParallel calls do with 0 to n-1, most of them at once, and returns when all
// are done.
func inParallel(most, n int, do func(i int) error) error {
	errs := make([]error, n)
	slots := make(chan struct{}, most)
	var wg sync.WaitGroup
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
