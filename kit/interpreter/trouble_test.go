package interpreter_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter"
)

// begin runs code and returns when it has printed something. The client is gone
// when the function is called, or the test ends.
func (s *server) begin(t *testing.T, r request) (gone func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := s.post(ctx, "/execute", r)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(resp.Body)
	for {
		b, err := in.ReadBytes('\n')
		if err != nil {
			t.Fatalf("begin %v: %v; %q", r, err, b)
		}
		if bytes.Contains(b, []byte(`"stdout"`)) {
			break
		}
	}
	return func() {
		cancel()
		resp.Body.Close()
	}
}

func TestOneAtATime(t *testing.T) {
	s := start(t, nil, "python")
	s.execute(t, request{"code": "order = []"})
	const n = 8
	block := s.begin(t, request{"code": "import time, os\nprint('on')\nwhile not os.path.exists('go'): time.sleep(0.01)"})
	defer block()
	where := s.contexts(t)[0].Cwd
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s.execute(t, request{"code": fmt.Sprintf("order.append(%d)", i)})
		})
		time.Sleep(50 * time.Millisecond) // so that they come in this order
	}
	// One that leaves the queue is not run.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	if _, err := s.try(ctx, request{"code": "order.append('gone')"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in the queue: %v, want a timeout", err)
	}
	cancel()
	if err := os.WriteFile(filepath.Join(where, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if o := s.execute(t, request{"code": "order"}); o.text() != "[0, 1, 2, 3, 4, 5, 6, 7]" {
		t.Errorf("order %s", o.text())
	}
	// Another context does not wait.
	block = s.begin(t, request{"code": "print('on')\ntime.sleep(100)"})
	defer block()
	c := s.create(t, `{}`)
	if o := s.execute(t, request{"code": "5", "context_id": c.ID}); o.text() != "5" {
		t.Errorf("another context says %+v", o)
	}
}

// Whoever goes away takes his code with him, and nobody's variables.
func TestClientGoes(t *testing.T) {
	s := start(t, nil, "python")
	s.execute(t, request{"code": "kept = 1\nimport time, subprocess"})
	for _, code := range []string{
		"time.sleep(300)", "while True: pass", "subprocess.run(['sleep', '300'])", "while True: print('flood' * 1000)",
	} {
		s.begin(t, request{"code": "print('on', flush=True)\n" + code})()
		began := time.Now()
		if o := s.execute(t, request{"code": "kept"}); o.text() != "1" || o.stderr != "" {
			t.Errorf("after %s: %+v, want 1", code, o)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("after %s the next one waited for %v", code, took)
		}
	}
	s.execute(t, request{"code": "kept=1", "language": "bash"})
	s.begin(t, request{"code": "echo on; sleep 300", "language": "bash"})()
	if o := s.execute(t, request{"code": "echo $kept", "language": "bash"}); o.stdout != "1\n" || o.stderr != "" {
		t.Errorf("Bash: %+v, want 1", o)
	}
	s.execute(t, request{"code": "globalThis.kept = 1", "language": "js"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.try(ctx, request{"code": "while (true) {}", "language": "js"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("JavaScript: %v, want a timeout", err)
	}
	if o := s.execute(t, request{"code": "globalThis.kept", "language": "js"}); o.text() != "1" || o.stderr != "" {
		t.Errorf("JavaScript: %+v, want 1", o)
	}
}

// An error ends one execution, and not what somebody asks for right after it: the
// kernel must not begin to refuse, which it does for too short a time to meet.
func TestAfterError(t *testing.T) {
	s := start(t, nil, "python")
	const watch = "refused = []\nget_ipython().kernel._abort_queues = lambda *args: refused.append(args)"
	if o := s.execute(t, request{"code": watch}); o.err != nil {
		t.Fatal(o.err)
	}
	if o := s.execute(t, request{"code": "1/0"}); o.err == nil || o.err.Name != "ZeroDivisionError" {
		t.Fatalf("%+v; want a ZeroDivisionError", o)
	}
	if o := s.execute(t, request{"code": "len(refused)"}); o.text() != "0" {
		t.Errorf("after an error, the kernel refused %q times what comes next; want 0", o.text())
	}
}

// An execution that resists gives way to the next one in the end.
func TestResists(t *testing.T) {
	s := start(t, func(o *interpreter.Options) { o.Patience = 2 * time.Second }, "python")
	s.begin(t, request{"code": `import time
while True:
    try:
        print("on", flush=True)
        while True: time.sleep(1)
    except KeyboardInterrupt: pass`})()
	began := time.Now()
	o := s.execute(t, request{"code": "1+1"})
	if o.text() != "2" || !strings.Contains(o.stderr, "its variables are gone") {
		t.Errorf("the next one: %+v, want 2 and a word about the variables", o)
	}
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("it waited for %v", took)
	}
	if o := s.execute(t, request{"code": "1+1"}); o.text() != "2" || o.stderr != "" {
		t.Errorf("the one after that: %+v", o)
	}
}

func TestKernelEnds(t *testing.T) {
	s := start(t, nil, "python")
	for _, code := range []string{
		"import os; os._exit(7)",
		"import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
		"import sys; sys.setrecursionlimit(10**9)\ndef f(n): return [f(n + 1)]\nclass A:\n    def __repr__(self): return repr(self)\nimport ctypes; ctypes.string_at(0)",
		"import os; print('x' * 100); os.close(0); os.abort()",
	} {
		o := s.execute(t, request{"code": code})
		if o.err == nil || o.err.Name != "ContextRestarting" || o.err.Value != "Context was restarted" || !strings.Contains(o.err.Traceback, "The kernel ended (") {
			t.Errorf("%s: %+v, want ContextRestarting", code, o)
		}
		if o := s.execute(t, request{"code": "1+1"}); o.text() != "2" || o.stderr != "" || o.count != 1 {
			t.Errorf("after %s: %+v", code, o)
		}
	}
	// Recursion that Python itself stops.
	if o := s.execute(t, request{"code": "def f(): f()\nf()"}); o.err == nil || o.err.Name != "RecursionError" {
		t.Errorf("recursion: %+v", o.err)
	}
	// The kernel ends while nobody uses it.
	pid, err := strconv.Atoi(s.execute(t, request{"code": "import os; os.getpid()"}).text())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kernel is reaped", func() bool { return syscall.Kill(pid, 0) != nil })
	if o := s.execute(t, request{"code": "1+1"}); o.text() != "2" || !strings.Contains(o.stderr, "signal: killed") {
		t.Errorf("after it was killed: %+v, want 2 and a word about it", o)
	}
}

// Who restarts or deletes a context ends what runs in it.
func TestRestartAndDeleteMeanwhile(t *testing.T) {
	s := start(t, nil)
	for _, end := range [][2]string{{"POST", "/restart"}, {"DELETE", ""}} {
		c := s.create(t, `{"language":"python"}`)
		type answer struct {
			o   *outcome
			err error
		}
		running, queued := make(chan answer, 1), make(chan answer, 1)
		go func() {
			o, err := s.try(t.Context(), request{"code": "open('on', 'w').close()\nimport time; time.sleep(300)", "context_id": c.ID})
			running <- answer{o, err}
		}()
		on := filepath.Join(c.Cwd, "on")
		eventually(t, "it runs", func() bool { _, err := os.Stat(on); return err == nil })
		os.Remove(on)
		go func() {
			o, err := s.try(t.Context(), request{"code": "3", "context_id": c.ID})
			queued <- answer{o, err}
		}()
		time.Sleep(100 * time.Millisecond) // so that it waits
		if status, text := s.answer(t, end[0], "/contexts/"+c.ID+end[1], "", ""); status != 200 {
			t.Fatalf("%v: %d %s", end, status, text)
		}
		if a := <-running; a.err != nil || a.o.err == nil || a.o.err.Name == "" {
			t.Errorf("%v: what ran: %+v, %v; want an error", end, a.o, a.err)
		}
		a := <-queued
		if a.err != nil {
			t.Fatal(a.err)
		}
		if end[0] == "POST" && a.o.text() != "3" {
			t.Errorf("what waited for a restart: %+v, want 3", a.o)
		}
		if end[0] == "DELETE" && (a.o.err == nil || a.o.err.Name != "UnexpectedEndOfExecution") {
			t.Errorf("what waited for the deletion: %+v, want UnexpectedEndOfExecution", a.o)
		}
	}
}

// heap returns the bytes that were found in use when garbage was collected last.
// How much garbage comes to that depends on what else the machine does.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// watchHeap returns how large the heap was at most until the function is called.
func watchHeap(t *testing.T) (most func() uint64) {
	runtime.GC() // what was in use is another test's
	var top atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
				top.Store(max(top.Load(), heap()))
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	var once sync.Once
	end := func() uint64 {
		once.Do(func() { close(stop) })
		<-done
		return top.Load()
	}
	t.Cleanup(func() { end() })
	return end
}

// A gigabyte of output arrives whole, and the server stays small.
func TestFlood(t *testing.T) {
	s := start(t, nil, "python")
	for _, test := range []struct {
		name, code, count string
		want              int64
	}{
		{"stdout", "import sys\nfor _ in range(1024): sys.stdout.write('~' * (1 << 20))", "~", 1 << 30},
		{"lines", "for i in range(1000000): print(f'{i}~')", "~", 1000000},
	} {
		t.Run(test.name, func(t *testing.T) {
			most := watchHeap(t)
			resp, err := s.post(t.Context(), "/execute", request{"code": test.code})
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var got int64
			tail, buf := []byte(nil), make([]byte, 256<<10)
			for {
				n, err := resp.Body.Read(buf)
				got += int64(bytes.Count(buf[:n], []byte(test.count)))
				tail = append(tail, buf[:n]...)
				tail = append(tail[:0], tail[max(0, len(tail)-100):]...)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if got != test.want || !bytes.HasSuffix(tail, []byte(`{"type":"end_of_execution"}`+"\n")) {
				t.Errorf("%d of %d arrived, and at the end %q", got, test.want, tail)
			}
			t.Logf("at most %d MiB of the heap were in use", most()>>20)
			if m := most(); m > 64<<20 {
				t.Errorf("%d MiB of the heap were in use", m>>20)
			}
		})
	}
	if o := s.execute(t, request{"code": "1+1"}); o.text() != "2" {
		t.Errorf("after the flood: %+v", o)
	}
}

// A client that does not read makes its code wait and nothing grow.
func TestSlowClient(t *testing.T) {
	s := start(t, nil, "python")
	most := watchHeap(t)
	resp, err := s.post(t.Context(), "/execute", request{"code": "for i in range(200):\n    print('y' * (1 << 20), flush=True)\n    open('far', 'w').write(str(i))"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	far := filepath.Join(s.contexts(t)[0].Cwd, "far")
	var at string
	eventually(t, "the code stands still", func() bool {
		before := at
		b, _ := os.ReadFile(far)
		at = string(b)
		time.Sleep(500 * time.Millisecond)
		return at != "" && at == before
	})
	if at == "199" {
		t.Errorf("the code did not wait for its client")
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n < 200<<20 {
		t.Errorf("%d bytes arrived, %v; want all 200 MiB", n, err)
	}
	t.Logf("stood still at %s of 200, at most %d MiB of the heap were in use", at, most()>>20)
	if m := most(); m > 64<<20 {
		t.Errorf("%d MiB of the heap were in use", m>>20)
	}
}

// One message that is too large is left out, and says so.
func TestHugeMessage(t *testing.T) {
	s := start(t, nil, "python")
	o := s.execute(t, request{"code": "from IPython.display import display\ndisplay({'text/html': 'z' * (80 << 20)}, raw=True)\nprint('after')\n1"})
	if len(o.results) != 1 || o.text() != "1" || o.stdout != "after\n" || !strings.Contains(o.stderr, "[display_data of 838") {
		t.Errorf("%d results, text %q, stdout %q, stderr %q; want only the last result and a note", len(o.results), o.text(), o.stdout, o.stderr)
	}
}

// As many results as code has time for arrive, every one.
func TestManyResults(t *testing.T) {
	s := start(t, nil, "python")
	const n = 50000
	most := watchHeap(t)
	resp, err := s.post(t.Context(), "/execute", request{"code": fmt.Sprintf(
		"from IPython.display import display\nfor i in range(%d): display({'text/plain': f'={i}'}, raw=True)", n)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for i := 0; ; {
		b, err := in.ReadBytes('\n')
		if err != nil {
			if i != n || err != io.EOF {
				t.Errorf("%d of %d results arrived, %v", i, n, err)
			}
			break
		}
		if bytes.Contains(b, []byte(`"result"`)) {
			if want := fmt.Sprintf(`"text":"=%d"`, i); !bytes.Contains(b, []byte(want)) {
				t.Fatalf("result %d is %s", i, b)
			}
			i++
		}
	}
	if m := most(); m > 64<<20 {
		t.Errorf("%d MiB of the heap were in use", m>>20)
	}
}

// While nothing happens the client hears that, while its code runs and while it
// waits for its turn.
func TestKeepalive(t *testing.T) {
	s := start(t, nil, "python")
	defer s.begin(t, request{"code": "print('on', flush=True)\nimport time; time.sleep(11)"})()
	o := s.execute(t, request{"code": "time.sleep(6); print('end')"})
	var kinds []string
	for _, l := range o.lines {
		kinds = append(kinds, l.Type)
	}
	const want = "keepalive keepalive number_of_executions keepalive stdout end_of_execution"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("lines %s, want %s", got, want)
	}
}
