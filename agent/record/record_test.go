package record_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/soulbox/soulbox/agent/record"
	"github.com/soulbox/soulbox/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// begin returns a recorder that is on.
func begin(t *testing.T, o record.Options, paths ...string) *record.Recorder {
	t.Helper()
	r := record.New(o)
	t.Cleanup(r.Close)
	if err := r.Start(paths); err != nil {
		t.Fatal(err)
	}
	return r
}

// got is an event without its time.
type got struct {
	Seq  uint64
	Kind event.Kind
	PID  int
	Text string
	Lost uint64
}

// take returns the events after seq up to the head.
func take(t *testing.T, r *record.Recorder, after uint64) []got {
	t.Helper()
	d, err := r.After(after)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []got
	for head := r.Position().Head; after < head; {
		frames, err := d.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d: %v", after, head, err)
		}
		for len(frames) > 0 {
			e, n, err := event.Parse(frames)
			if err != nil {
				t.Fatal(err)
			}
			want := after + 1
			if e.Kind == event.Gap {
				want = after + e.Lost
			}
			if e.Seq != want {
				t.Fatalf("event %d (lost %d) follows %d", e.Seq, e.Lost, after)
			}
			all = append(all, got{e.Seq, e.Kind, e.PID, string(e.Text), e.Lost})
			frames, after = frames[n:], e.Seq
		}
	}
	return all
}

func TestOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "record")
	r := record.New(record.Options{Dir: dir})
	defer r.Close()
	r.Started(1, []string{"x"})
	r.Output(1, "stdout", []byte("x"))
	r.Ended(1, 0, "")
	r.Restored()
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("a record that is off leaves a folder: %v", err)
	}
	if diff := cmp.Diff(record.Position{}, r.Position()); diff != "" {
		t.Error(diff)
	}
	if _, err := r.After(0); !errors.Is(err, record.ErrOff) {
		t.Errorf("After: %v", err)
	}
	piece := []byte("x")
	if allocs := testing.AllocsPerRun(100, func() { r.Output(1, "stdout", piece) }); allocs > 0 {
		t.Errorf("output costs %v allocations while nothing is recorded", allocs)
	}
}

func TestEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "record")
	r := begin(t, record.Options{Dir: dir})
	big := bytes.Repeat([]byte("0123456789"), 10000)
	r.Started(7, []string{"echo", "a b"})
	r.Output(7, "stdout", big)
	r.Output(7, "pty", nil)
	r.Ended(7, -1, "SIGKILL")
	want := []got{
		{Seq: 1, Kind: event.Started, PID: 7, Text: "echo a b"},
		{Seq: 2, Kind: event.Output, PID: 7, Text: string(big[:event.MaxOutput])},
		{Seq: 3, Kind: event.Output, PID: 7, Text: string(big[event.MaxOutput:])},
		{Seq: 4, Kind: event.Ended, PID: 7, Text: "SIGKILL"},
	}
	for after := range len(want) + 1 {
		if diff := cmp.Diff(want[after:], take(t, r, uint64(after)), cmpEmpty); diff != "" {
			t.Errorf("after %d (-want +got):\n%s", after, diff)
		}
	}
	if _, err := r.After(5); !errors.Is(err, record.ErrAhead) {
		t.Errorf("After(5): %v", err)
	}
	p := r.Position()
	if len(p.Epochs) != 1 || p.Epochs[0].From != 1 || p.Head != 4 || p.Tail != 1 {
		t.Errorf("position %+v", p)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", fi.Mode(), err)
	}
}

var cmpEmpty = cmp.Transformer("nil", func(s []got) string { return fmt.Sprintf("%.200v", s) })

func TestReaderWaits(t *testing.T) {
	r := begin(t, record.Options{Dir: filepath.Join(t.TempDir(), "r")})
	d, err := r.After(0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := d.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next with a context that ended: %v", err)
		}
		r.Output(1, "stdout", []byte("one"))
		for _, want := range []string{"one", "two"} {
			frames, err := d.Next(t.Context())
			if err != nil {
				t.Error(err)
				break
			}
			if e, n, err := event.Parse(frames); err != nil || n != len(frames) || string(e.Text) != want {
				t.Errorf("%q in %d of %d bytes, %v; want %q", e.Text, n, len(frames), err, want)
			}
			if want == "one" {
				r.Output(1, "stdout", []byte("two"))
			}
		}
		close(read)
	})
	cancel()
	<-read
	last, err := r.After(2)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if _, err := last.Next(t.Context()); !errors.Is(err, record.ErrOff) {
			t.Errorf("Next of a closed record: %v", err)
		}
	})
	wg.Go(r.Close)
	wg.Wait()
}

// A ring that has turned says how much is missing, keeps the newest and stays
// within its size, whoever reads and writes at the same time.
func TestTurns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	const size = 256 << 10
	r := begin(t, record.Options{Dir: dir, Size: size})
	slow, err := r.After(0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const writers, each = 3, 3000
	for pid := range writers {
		wg.Go(func() {
			for i := range each {
				r.Output(pid+1, "stdout", fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 200)))
			}
		})
	}
	wg.Go(func() { take(t, r, 0) })
	wg.Wait()
	all := take(t, r, 0)
	head := r.Position().Head
	if head != writers*each || all[0].Kind != event.Gap || all[0].Lost != r.Position().Tail-1 || all[len(all)-1].Seq != head {
		t.Errorf("head %d, %d events, the first %+v; position %+v", head, len(all), all[0], r.Position())
	}
	next := map[int]int{}
	kept := 0
	for _, e := range all[1:] {
		var i int
		if _, err := fmt.Sscan(e.Text, &i); err != nil || i < next[e.PID] || next[e.PID] > 0 && i != next[e.PID] {
			t.Fatalf("process %d says %.20q, %v; want %d", e.PID, e.Text, err, next[e.PID])
		}
		next[e.PID] = i + 1
		kept += len(e.Text)
	}
	for pid, n := range next {
		if n != each {
			t.Errorf("the last that is kept of process %d is number %d", pid, n-1)
		}
	}
	if kept < size/2 {
		t.Errorf("%d bytes are kept, want more than a half of %d", kept, size)
	}
	if used := usage(t, dir); used > size+4<<10 {
		t.Errorf("the ring takes %d bytes, more than %d", used, size)
	}
	frames, err := slow.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e, _, err := event.Parse(frames); err != nil || e.Kind != event.Gap || e.Lost == 0 {
		t.Errorf("a slow reader gets %+v, %v; want a gap", e, err)
	}
}

func usage(t *testing.T, dir string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += fi.Size()
	}
	return n
}

// froms returns where the epochs of a record begin.
func froms(r *record.Recorder) (all []uint64) {
	for _, e := range r.Position().Epochs {
		all = append(all, e.From)
	}
	return all
}

func TestEpochs(t *testing.T) {
	o := record.Options{Dir: filepath.Join(t.TempDir(), "r")}
	r := begin(t, o)
	say := func() { r.Output(1, "stdout", []byte("x")) }
	say()
	r.Restored()
	say()
	say()
	before := r.Position()
	if diff := cmp.Diff([]uint64{1, 2}, froms(r)); diff != "" || before.Head != 3 {
		t.Errorf("%+v (-want +got):\n%s", before, diff)
	}
	r.Close()

	r = record.New(o) // the next agent goes on by itself
	defer func() { r.Close() }()
	say()
	after := r.Position()
	if diff := cmp.Diff(before.Epochs, after.Epochs[:2]); diff != "" || after.Head != 4 || len(after.Epochs) != 3 || after.Epochs[2].From != 4 {
		t.Errorf("after a start: %+v, was %+v", after, before)
	}
	ids := map[string]bool{}
	for range 100 {
		r.Restored()
		say()
	}
	p := r.Position()
	for i, e := range p.Epochs {
		ids[e.ID] = true
		if want := p.Head - 63 + uint64(i); e.From != want {
			t.Errorf("epoch %d begins with %d, want %d", i, e.From, want)
		}
	}
	if len(p.Epochs) != 64 || len(ids) != 64 {
		t.Errorf("%d epochs with %d names", len(p.Epochs), len(ids))
	}
}

// What happens while the record is held is shown later, to those who read
// already as well, and belongs to whom the host says.
func TestHold(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*record.Recorder)
		want []uint64
	}{
		"released": {(*record.Recorder).Release, []uint64{1}},
		"restored": {(*record.Recorder).Restored, []uint64{1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "r")
			r := begin(t, record.Options{Dir: dir})
			say := func() { r.Output(1, "stdout", []byte("x")) }
			d, err := r.After(0)
			if err != nil {
				t.Fatal(err)
			}
			say()
			say()
			r.Release() // of nothing
			for range 2 {
				r.Hold()
				say()
			}
			if p := r.Position(); p.Head != 2 || p.Tail != 1 || len(p.Epochs) != 1 {
				t.Errorf("while held: %+v", p)
			}
			if all := take(t, r, 0); len(all) != 2 {
				t.Errorf("while held: %+v", all)
			}
			if _, err := r.After(3); !errors.Is(err, record.ErrAhead) {
				t.Errorf("After(3) while held: %v", err)
			}
			read := make(chan uint64)
			go func() { // it ends with the record
				defer close(read)
				for {
					frames, err := d.Next(t.Context())
					if err != nil {
						return
					}
					for len(frames) > 0 {
						e, n, err := event.Parse(frames)
						if err != nil {
							t.Error(err)
							return
						}
						read <- e.Seq
						frames = frames[n:]
					}
				}
			}()
			for _, want := range []uint64{1, 2} {
				if got := <-read; got != want {
					t.Errorf("read %d, want %d", got, want)
				}
			}
			say()
			select {
			case got := <-read:
				t.Errorf("event %d is shown while the record is held", got)
			case <-time.After(20 * time.Millisecond):
			}

			// A copy without the memory has a new agent.
			files := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(files, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c := record.New(record.Options{Dir: files})
			if diff := cmp.Diff([]uint64{1, 3, 6}, froms(c)); diff != "" || c.Position().Head != 5 {
				t.Errorf("a copy: %+v (-want +got):\n%s", c.Position(), diff)
			}
			c.Close()

			tt.end(r)
			for _, want := range []uint64{3, 4, 5} {
				if got := <-read; got != want {
					t.Errorf("read %d, want %d", got, want)
				}
			}
			if diff := cmp.Diff(tt.want, froms(r)); diff != "" || r.Position().Head != 5 {
				t.Errorf("afterwards: %+v (-want +got):\n%s", r.Position(), diff)
			}
			say()
			if got := <-read; got != 6 {
				t.Errorf("read %d, want 6", got)
			}
			r.Close()
			<-read
		})
	}
}

// While it is held the ring may turn, beyond what is shown.
func TestHoldTurns(t *testing.T) {
	r := begin(t, record.Options{Dir: filepath.Join(t.TempDir(), "r"), Size: 16 << 10})
	r.Output(1, "stdout", []byte("x"))
	r.Hold()
	for range 100 {
		r.Output(1, "stdout", bytes.Repeat([]byte("x"), 500))
	}
	if p := r.Position(); p.Head != 1 || p.Tail != 2 {
		t.Errorf("while held: %+v", p)
	}
	d, err := r.After(0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if frames, err := d.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while held: %d bytes, %v", len(frames), err)
	}
	r.Release()
	if all := take(t, r, 0); all[0].Kind != event.Gap || all[len(all)-1].Seq != 101 {
		t.Errorf("%+v", all[0])
	}
}

// An agent that dies leaves any beginning of what it was about to write. The
// next one keeps what was complete and goes on behind it.
func TestTornEnd(t *testing.T) {
	from := filepath.Join(t.TempDir(), "r")
	r := record.New(record.Options{Dir: from})
	if err := r.Start(nil); err != nil {
		t.Fatal(err)
	}
	ends := []int{8} // of the file with 0, 1, … events
	for i := range 4 {
		r.Output(1, "stdout", []byte(strings.Repeat("x", 5*i+1)))
		ends = append(ends, int(usage(t, from))) // less the notes, below
	}
	r.Close()
	notes, err := os.ReadFile(filepath.Join(from, "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%020d.events", 1)
	whole, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	for i := range ends[1:] {
		ends[i+1] -= len(notes)
	}
	if ends[4] != len(whole) {
		t.Fatalf("%v, %d", ends, len(whole))
	}
	for size := range len(whole) + 1 {
		for what, tail := range map[string]string{"": "", "zeroes": "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "noise": "\x05\x00\x00\x00noise"} {
			dir := filepath.Join(t.TempDir(), "r")
			if err := errors.Join(
				os.Mkdir(dir, 0o700),
				os.WriteFile(filepath.Join(dir, "record.json"), notes, 0o600),
				os.WriteFile(filepath.Join(dir, name), append(bytes.Clone(whole[:size]), tail...), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			r := record.New(record.Options{Dir: dir})
			kept := uint64(0)
			for kept < 4 && ends[kept+1] <= size {
				kept++
			}
			p := r.Position()
			if p.Head != kept || p.Tail != 1 || p.Epochs[len(p.Epochs)-1].From != kept+1 {
				t.Errorf("%d bytes %s: %+v, want %d events", size, what, p, kept)
			}
			r.Output(1, "stdout", []byte("on"))
			if all := take(t, r, 0); len(all) != int(kept)+1 || all[kept].Text != "on" {
				t.Errorf("%d bytes %s: %+v", size, what, all)
			}
			r.Close()
		}
	}
}

// Whatever the programs of a sandbox do to the files, the agent goes on, and
// no reader gets an event in the wrong place.
func TestTampering(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		dir := filepath.Join(t.TempDir(), "r")
		o := record.Options{Dir: dir, Size: 64 << 10}
		r := begin(t, o)
		fill := func() {
			for range 150 {
				r.Output(1, "stdout", bytes.Repeat([]byte("x"), rnd.IntN(1000)))
			}
		}
		fill()
		for range 4 {
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			path := files[rnd.IntN(len(files))]
			fi, err := os.Stat(path)
			if err != nil {
				continue
			}
			junk := binary.LittleEndian.AppendUint64(nil, rnd.Uint64())
			switch rnd.IntN(4) {
			case 0:
				err = os.Truncate(path, rnd.Int64N(fi.Size()+1))
			case 1:
				err = os.Remove(path)
			case 2:
				err = errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
			case 3:
				var f *os.File
				if f, err = os.OpenFile(path, os.O_WRONLY, 0); err == nil {
					_, err = f.WriteAt(junk, rnd.Int64N(fi.Size()+1))
					err = errors.Join(err, f.Close())
				}
			}
			t.Log(filepath.Base(path), err)
		}
		fill()
		within(t, func() { take(t, r, 0) })
		r.Close()
		r = record.New(o)
		if err := r.Start(nil); err != nil {
			t.Log(err) // it may well be impossible
			continue
		}
		fill()
		within(t, func() { take(t, r, 0) })
		r.Close()
	}
}

func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it takes too long")
	}
}

// What cannot be written is missing, and is said to be.
func TestNoRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	r := begin(t, record.Options{Dir: dir, Size: 8 << 10})
	r.Output(1, "stdout", bytes.Repeat([]byte("a"), 900))
	if err := errors.Join(os.Rename(dir, dir+"2"), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 5 { // each wants a segment of its own
		r.Output(1, "stdout", bytes.Repeat([]byte("b"), 900))
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+"2", dir)); err != nil {
		t.Fatal(err)
	}
	r.Output(1, "stdout", []byte("c"))
	r.Output(1, "stdout", bytes.Repeat([]byte("d"), 900))
	want := []got{
		{Seq: 1, Kind: event.Output, PID: 1, Text: strings.Repeat("a", 900)},
		{Seq: 6, Kind: event.Gap, Lost: 5},
		{Seq: 7, Kind: event.Output, PID: 1, Text: "c"},
		{Seq: 8, Kind: event.Output, PID: 1, Text: strings.Repeat("d", 900)},
	}
	if diff := cmp.Diff(want, take(t, r, 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// fakeWatch is a watch whose changes are the test's.
type fakeWatch struct {
	changes chan string
	broken  chan error
	ended   chan struct{}
}

func (w *fakeWatch) Run(ctx context.Context, tell func(path, op string)) error {
	defer close(w.ended)
	for {
		select {
		case path := <-w.changes:
			tell(path, "write")
		case err := <-w.broken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestWatches(t *testing.T) {
	var mu sync.Mutex
	watches := map[string]*fakeWatch{} // the newest of each folder
	watch := func(dir string) *fakeWatch {
		mu.Lock()
		defer mu.Unlock()
		return watches[dir]
	}
	gone := errors.New("gone")
	var warned []string
	o := record.Options{
		Dir: filepath.Join(t.TempDir(), "r"),
		Watch: func(dir string) (record.Watch, error) {
			if dir == "/gone" {
				return nil, gone
			}
			w := &fakeWatch{make(chan string), make(chan error), make(chan struct{})}
			mu.Lock()
			defer mu.Unlock()
			watches[dir] = w
			return w, nil
		},
		Warn: func(problem string) { warned = append(warned, problem) },
	}
	r := begin(t, o, "/b/", "/a", "/a")
	for _, bad := range [][]string{{"relative"}, {""}, {"/a", "/gone"}, make([]string, 65)} {
		if err := r.Start(bad); !errors.Is(err, record.ErrPaths) {
			t.Errorf("Start(%v): %v", bad, err)
		}
	}
	a, b := watch("/a"), watch("/b")
	if err := r.Start([]string{"/a", "/b"}); err != nil { // as before
		t.Fatal(err)
	}
	b.changes <- "/b/x"
	b.broken <- errors.New("too much")
	<-b.ended
	for watch("/b") == b {
		time.Sleep(time.Millisecond)
	}
	for r.Position().Head < 2 { // the hole
		time.Sleep(time.Millisecond)
	}
	if err := r.Start([]string{"/a"}); err != nil {
		t.Fatal(err)
	}
	<-watch("/b").ended
	<-a.ended // and begun anew
	watch("/a").changes <- "/a/y"
	for r.Position().Head < 3 {
		time.Sleep(time.Millisecond)
	}
	want := []got{
		{Seq: 1, Kind: event.File, Text: "/b/x"},
		{Seq: 2, Kind: event.Gap, Lost: 1},
		{Seq: 3, Kind: event.File, Text: "/a/y"},
	}
	if diff := cmp.Diff(want, take(t, r, 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.Close()
	<-watch("/a").ended
	if len(warned) != 1 || !strings.Contains(warned[0], "too much") {
		t.Errorf("warnings %q", warned)
	}

	// The next agent does without a folder that has gone meanwhile.
	working := o.Watch
	o.Watch = func(string) (record.Watch, error) { return nil, gone }
	r = record.New(o)
	r.Close()
	if len(warned) != 2 || !strings.Contains(warned[1], "/a is not watched any more: gone") {
		t.Errorf("warnings %q", warned)
	}
	o.Watch = working
	r = record.New(o)
	defer r.Close()
	if err := r.Start([]string{"/a"}); err != nil {
		t.Fatal(err)
	}
	watch("/a").changes <- "/a/z"
}
