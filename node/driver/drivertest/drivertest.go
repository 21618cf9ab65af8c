// Package drivertest is the suite that every [driver.Driver] passes.
package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
)

// A Harness is what a driver's own test gives to the suite.
type Harness struct {
	// Open returns the driver. Called again, it returns what a second
	// process would have: the same sandboxes, nothing remembered.
	Open func(t *testing.T) driver.Driver

	// Spec returns what a sandbox called id is made of. Everything in it is
	// released by the harness when t ends.
	Spec func(t *testing.T, id soulbox.SandboxID) driver.Spec

	// Crash ends the runtime of a sandbox as an accident would.
	Crash func(t *testing.T, spec driver.Spec)
}

const patience = 20 * time.Second

// Run tests a driver.
func Run(t *testing.T, h Harness) {
	start := func(t *testing.T, d driver.Driver, id soulbox.SandboxID) (driver.Spec, driver.Instance) {
		t.Helper()
		spec := h.Spec(t, id)
		inst, err := d.Start(t.Context(), spec)
		if err != nil {
			t.Fatalf("Start(%s): %v", id, err)
		}
		t.Cleanup(func() {
			if err := d.Destroy(context.WithoutCancel(t.Context()), id, spec.Dir); err != nil {
				t.Errorf("Destroy(%s) at the end: %v", id, err)
			}
		})
		return spec, inst
	}

	t.Run("started_answers", func(t *testing.T) {
		_, inst := start(t, h.Open(t), "ia1")
		wantHealthy(t, inst)
		if n, err := inst.DiskUsed(); err != nil || n < 0 {
			t.Errorf("DiskUsed() = %d, %v", n, err)
		}
		select {
		case <-inst.Done():
			t.Errorf("Done is closed while the sandbox runs: %+v", inst.Exit())
		default:
		}
	})

	t.Run("nothing_listens", func(t *testing.T) {
		_, inst := start(t, h.Open(t), "ia2")
		conn, err := inst.Dial(t.Context(), 9)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial of a closed port: %v, want ECONNREFUSED", err)
		}
	})

	t.Run("start_twice", func(t *testing.T) {
		d := h.Open(t)
		spec, inst := start(t, d, "ib")
		again := h.Spec(t, "ib")
		again.Dir = spec.Dir
		if _, err := d.Start(t.Context(), again); soulbox.KindOf(err) != soulbox.Conflict {
			t.Errorf("second Start: %v, want Conflict", err)
		}
		wantHealthy(t, inst)
	})

	t.Run("destroy", func(t *testing.T) {
		d := h.Open(t)
		spec, inst := start(t, d, "ic")
		for range 2 {
			if err := d.Destroy(t.Context(), "ic", spec.Dir); err != nil {
				t.Fatalf("Destroy: %v", err)
			}
		}
		wantDone(t, inst)
		if conn, err := inst.Dial(t.Context(), guest.Port); err == nil {
			conn.Close()
			t.Error("a destroyed sandbox can be dialled")
		}
		wantEmpty(t, spec.Dir)
	})

	t.Run("destroy_unknown", func(t *testing.T) {
		if err := h.Open(t).Destroy(t.Context(), "inobody", t.TempDir()); err != nil {
			t.Errorf("Destroy of an unknown sandbox: %v", err)
		}
	})

	t.Run("start_again_after_destroy", func(t *testing.T) {
		d := h.Open(t)
		spec, _ := start(t, d, "id")
		if err := d.Destroy(t.Context(), "id", spec.Dir); err != nil {
			t.Fatal(err)
		}
		_, inst := start(t, d, "id")
		wantHealthy(t, inst)
	})

	t.Run("adopt", func(t *testing.T) {
		spec, first := start(t, h.Open(t), "ie")
		later := h.Open(t)
		inst, err := later.Adopt(t.Context(), "ie", spec.Dir)
		if err != nil {
			t.Fatalf("Adopt: %v", err)
		}
		wantHealthy(t, inst)
		if err := later.Destroy(t.Context(), "ie", spec.Dir); err != nil {
			t.Fatal(err)
		}
		wantDone(t, inst)
		wantDone(t, first)
		if _, err := later.Adopt(t.Context(), "ie", spec.Dir); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Adopt after Destroy: %v, want NotFound", err)
		}
	})

	t.Run("adopt_unknown", func(t *testing.T) {
		if _, err := h.Open(t).Adopt(t.Context(), "inobody", t.TempDir()); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Adopt of an unknown sandbox: %v, want NotFound", err)
		}
	})

	t.Run("crash", func(t *testing.T) {
		d := h.Open(t)
		spec, inst := start(t, d, "if")
		h.Crash(t, spec)
		wantDone(t, inst)
		if got, want := inst.Exit(), (driver.Exit{Signal: "killed"}); got != want {
			t.Errorf("Exit() = %+v, want %+v", got, want)
		}
		if _, err := d.Adopt(t.Context(), "if", spec.Dir); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Adopt after a crash: %v, want NotFound", err)
		}
		if err := d.Destroy(t.Context(), "if", spec.Dir); err != nil {
			t.Fatal(err)
		}
		wantEmpty(t, spec.Dir)
	})

	t.Run("start_fails", func(t *testing.T) {
		d := h.Open(t)
		for name, spoil := range map[string]func(context.Context, *driver.Spec) context.Context{
			"image_is_no_image": func(ctx context.Context, s *driver.Spec) context.Context {
				s.Image = openJunk(t)
				return ctx
			},
			"cancelled": func(ctx context.Context, _ *driver.Spec) context.Context {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				return ctx
			},
		} {
			spec := h.Spec(t, "ig")
			if _, err := d.Start(spoil(t.Context(), &spec), spec); err == nil {
				t.Errorf("%s: Start succeeds", name)
			}
			wantEmpty(t, spec.Dir)
		}
		_, inst := start(t, d, "ig")
		wantHealthy(t, inst)
	})

	t.Run("freeze", func(t *testing.T) {
		_, inst := start(t, h.Open(t), "ii")
		for _, step := range []func(context.Context) error{inst.Freeze, inst.Freeze, inst.Thaw, inst.Thaw} {
			if err := step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantHealthy(t, inst)
	})

	for _, memory := range []bool{true, false} {
		t.Run(fmt.Sprintf("save/memory=%v", memory), func(t *testing.T) {
			d := h.Open(t)
			if memory && !d.Capabilities().Memory {
				return
			}
			_, inst := start(t, d, "ij1")
			dir := t.TempDir()
			if err := inst.Save(t.Context(), dir, memory); err != nil {
				t.Fatalf("Save: %v", err)
			}
			wantHealthy(t, inst)
			if err := inst.Save(t.Context(), dir, memory); err == nil {
				t.Error("Save into a folder that is not empty succeeds")
			}
			wantHealthy(t, inst)

			if err := inst.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			frozen := t.TempDir()
			if err := inst.Save(t.Context(), frozen, memory); err != nil {
				t.Fatalf("Save of a frozen sandbox: %v", err)
			}
			if err := inst.Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, inst)

			for i, dir := range []string{dir, dir, frozen} {
				spec := h.Spec(t, soulbox.SandboxID(fmt.Sprintf("ik%d", i)))
				checked := 0
				spec.Saved = &driver.Saved{Dir: dir, Memory: memory, Check: func() error { checked++; return nil }}
				copied, err := d.Start(t.Context(), spec)
				if err != nil {
					t.Fatalf("restore: %v", err)
				}
				wantHealthy(t, copied)
				if checked != 1 {
					t.Errorf("Check was called %d times, want once", checked)
				}
				if err := d.Destroy(t.Context(), spec.ID, spec.Dir); err != nil {
					t.Error(err)
				}
				wantEmpty(t, spec.Dir)
			}
			wantHealthy(t, inst)

			for name, saved := range map[string]*driver.Saved{
				"refused": {Dir: dir, Memory: memory, Check: func() error { return soulbox.Errorf(soulbox.Unavailable, "it is damaged") }},
				"empty":   {Dir: t.TempDir(), Memory: memory, Check: func() error { return nil }},
			} {
				spec := h.Spec(t, "il")
				spec.Saved = saved
				_, err := d.Start(t.Context(), spec)
				if err == nil || name == "refused" && soulbox.KindOf(err) != soulbox.Unavailable {
					t.Errorf("%s: Start: %v, want an error that says so", name, err)
				}
				wantEmpty(t, spec.Dir)
			}
		})
	}

	t.Run("save_under_connections", func(t *testing.T) {
		d := h.Open(t)
		if !d.Capabilities().Memory {
			return
		}
		_, inst := start(t, d, "in1")
		stop := knock(t, inst)
		for i := range 20 {
			dir := t.TempDir()
			if err := inst.Save(t.Context(), dir, true); err != nil {
				t.Fatalf("Save %d: %v", i, err)
			}
			spec := h.Spec(t, soulbox.SandboxID(fmt.Sprintf("io%d", i)))
			spec.Saved = &driver.Saved{Dir: dir, Memory: true, Check: func() error { return nil }}
			copied, err := d.Start(t.Context(), spec)
			if err != nil {
				t.Fatalf("restore %d: %v", i, err)
			}
			wantHealthy(t, copied)
			if err := d.Destroy(t.Context(), spec.ID, spec.Dir); err != nil {
				t.Error(err)
			}
		}
		stop()
		wantHealthy(t, inst)
	})

	t.Run("changes", func(t *testing.T) {
		d := h.Open(t)
		_, inst := start(t, d, "ip1")
		if !d.Capabilities().Changes {
			if err := inst.Changes(t.Context(), openJunk(t)); soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("Changes: %v, want Invalid", err)
			}
			return
		}
		content := strings.Repeat("written after the start\n", 1<<15) // more than a pipe takes
		upload(t, inst, "/files", content)
		if err := inst.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it repeats
			names, found := layer(t, inst)
			if len(names) == 0 || names[0] != "./" || found["./files"] != content {
				t.Errorf("the upper layer has %q, and %d bytes in the file; want the root first and the %d that were written", names, len(found["./files"]), len(content))
			}
		}
		if err := inst.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantHealthy(t, inst)
	})

	t.Run("save_of_the_dead", func(t *testing.T) {
		d := h.Open(t)
		spec, inst := start(t, d, "im")
		h.Crash(t, spec)
		wantDone(t, inst)
		for what, err := range map[string]error{
			"Save":    inst.Save(t.Context(), t.TempDir(), true),
			"Freeze":  inst.Freeze(t.Context()),
			"Thaw":    inst.Thaw(t.Context()),
			"Changes": inst.Changes(t.Context(), openJunk(t)),
		} {
			if err == nil {
				t.Errorf("%s of a sandbox that has ended succeeds", what)
			}
		}
	})

	t.Run("many_at_once", func(t *testing.T) {
		d := h.Open(t)
		var wg sync.WaitGroup
		for i := range 6 {
			id := soulbox.SandboxID(fmt.Sprintf("ih%d", i))
			spec := h.Spec(t, id)
			wg.Go(func() {
				inst, err := d.Start(t.Context(), spec)
				if err != nil {
					t.Errorf("Start(%s): %v", id, err)
					return
				}
				wantHealthy(t, inst)
				if err := d.Destroy(t.Context(), id, spec.Dir); err != nil {
					t.Errorf("Destroy(%s): %v", id, err)
				}
				wantEmpty(t, spec.Dir)
			})
		}
		wg.Wait()
	})
}

// layer reads what a sandbox has on top of its image: the names in their order,
// and what is in the files.
func layer(t *testing.T, inst driver.Instance) (names []string, files map[string]string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	written := make(chan error, 1)
	go func() { written <- errors.Join(inst.Changes(t.Context(), w), w.Close()) }()
	files = map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var b []byte
		if err == nil {
			b, err = io.ReadAll(in)
		}
		if err != nil {
			t.Fatalf("Changes writes what is no tar: %v", err)
		}
		names = append(names, h.Name)
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = string(b)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what fills the last record
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Errorf("Changes: %v", err)
	}
	return names, files
}

// upload has the agent write a file.
func upload(t *testing.T, inst driver.Instance, path, content string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", path)
	if err == nil {
		_, err = io.WriteString(part, content)
	}
	if err = errors.Join(err, form.Close()); err != nil {
		t.Fatal(err)
	}
	if code := ask(t, inst, http.MethodPost, "/files?username=root&path="+path, form.FormDataContentType(), &body); code/100 != 2 {
		t.Errorf("POST /files: %d, want 2xx", code)
	}
}

// wantHealthy asks the agent whether it is well.
func wantHealthy(t *testing.T, inst driver.Instance) {
	t.Helper()
	if code := ask(t, inst, http.MethodGet, "/health", "", http.NoBody); code != http.StatusNoContent {
		t.Errorf("GET /health: %d, want 204", code)
	}
}

// ask sends a request to the agent and returns the status, 0 if it does not
// answer.
func ask(t *testing.T, inst driver.Instance, verb, path, contentType string, body io.Reader) int {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return inst.Dial(ctx, guest.Port)
	}}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, verb, "http://agent"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Errorf("%s %s: %v", verb, path, err)
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// knock makes connections in every state: it opens them as fast as it can and
// closes them at once, after an answer, or without waiting for one.
func knock(t *testing.T, inst driver.Instance) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := inst.Dial(ctx, guest.Port)
				if err != nil {
					continue
				}
				if i > 0 {
					_, _ = io.WriteString(c, "GET /health HTTP/1.1\r\nHost: agent\r\n\r\n")
				}
				if i > 1 {
					_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
					_, _ = c.Read(make([]byte, 1024))
				}
				c.Close()
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

func wantDone(t *testing.T, inst driver.Instance) {
	t.Helper()
	select {
	case <-inst.Done():
	case <-time.After(patience):
		t.Errorf("Done is not closed %v after the end", patience)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		t.Errorf("%s was left in the sandbox's folder", e.Name())
	}
}

func openJunk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "junk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	return f
}
