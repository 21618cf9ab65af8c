// Package blobtest is the suite that every [blob.Store] passes.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
)

// Run runs the suite. Open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"RoundTrip": testRoundTrip,
		"Parts":     testParts,
		"Wrong":     testWrong,
		"Repeated":  testRepeated,
		"Missing":   testMissing,
		"List":      testList,
		"AtOnce":    testAtOnce,
		"CutOff":    testCutOff,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// large is more than a store may want to send in one piece.
const large = 40 << 20

// noise returns n bytes that are the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

func put(t *testing.T, s blob.Store, b []byte) soulbox.Digest {
	t.Helper()
	d := soulbox.DigestOf(b)
	if err := s.Put(t.Context(), d, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatalf("Put of %d bytes: %v", len(b), err)
	}
	return d
}

func read(t *testing.T, s blob.Store, d soulbox.Digest, offset, length int64) []byte {
	t.Helper()
	rc, err := s.Open(t.Context(), d, offset, length)
	if err != nil {
		t.Fatalf("Open at %d, %d bytes: %v", offset, length, err)
	}
	b, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		t.Fatalf("read at %d, %d bytes: %v", offset, length, err)
	}
	return b
}

// wantNone makes sure that there is no blob.
func wantNone(t *testing.T, s blob.Store, d soulbox.Digest) {
	t.Helper()
	if info, err := s.Stat(t.Context(), d); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Stat = %+v, %v; want NotFound", info, err)
	}
	if rc, err := s.Open(t.Context(), d, 0, -1); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Open = %v, %v; want NotFound", rc, err)
	}
}

func list(t *testing.T, s blob.Store) map[soulbox.Digest]int64 {
	t.Helper()
	all := map[soulbox.Digest]int64{}
	for info, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		all[info.Digest] = info.Size
	}
	return all
}

func testRoundTrip(t *testing.T, s blob.Store) {
	for _, n := range []int{0, 1, 4096, large} {
		b := noise(n)
		before := time.Now().Add(-2 * time.Second) // some clocks have whole seconds
		d := put(t, s, b)
		info, err := s.Stat(t.Context(), d)
		if err != nil || info.Digest != d || info.Size != int64(n) || info.At.Before(before) || info.At.After(time.Now().Add(2*time.Second)) {
			t.Errorf("Stat of %d bytes = %+v, %v", n, info, err)
		}
		if got := read(t, s, d, 0, -1); !bytes.Equal(got, b) {
			t.Errorf("%d bytes come back as %d others", n, len(got))
		}
	}
}

func testParts(t *testing.T, s blob.Store) {
	b := noise(100)
	d := put(t, s, b)
	for _, p := range []struct{ offset, length int64 }{{0, 100}, {0, 1}, {99, 1}, {10, 20}, {50, -1}, {99, -1}} {
		end := p.offset + p.length
		if p.length < 0 {
			end = 100
		}
		if got := read(t, s, d, p.offset, p.length); !bytes.Equal(got, b[p.offset:end]) {
			t.Errorf("at %d, %d bytes: got %x", p.offset, p.length, got)
		}
	}
}

// testWrong puts what does not have its digest or its size, small and large.
func testWrong(t *testing.T, s blob.Store) {
	for _, n := range []int{10, large} {
		b := noise(n)
		d, size := soulbox.DigestOf(b), int64(n)
		flipped := bytes.Clone(b)
		flipped[n-1] ^= 1
		for name, r := range map[string]io.Reader{
			"flipped":   bytes.NewReader(flipped),
			"too short": bytes.NewReader(b[:n-1]),
			"too long":  io.MultiReader(bytes.NewReader(b), strings.NewReader("x")),
			"empty":     strings.NewReader(""),
		} {
			if err := s.Put(t.Context(), d, size, r); soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("Put of %d bytes, %s: %v, want Invalid", n, name, err)
			}
			wantNone(t, s, d)
		}
	}
	if all := list(t, s); len(all) != 0 {
		t.Errorf("List() = %v, want nothing", all)
	}
}

func testRepeated(t *testing.T, s blob.Store) {
	b := noise(1000)
	d := put(t, s, b)
	put(t, s, b)
	// What is there stays there when somebody sends rubbish under its name.
	if err := s.Put(t.Context(), d, 1000, bytes.NewReader(noise(999))); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Put of rubbish: %v, want Invalid", err)
	}
	if got := read(t, s, d, 0, -1); !bytes.Equal(got, b) {
		t.Error("a blob changed")
	}
	for range 2 {
		if err := s.Delete(t.Context(), d); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	wantNone(t, s, d)
	put(t, s, b)
	if got := read(t, s, d, 0, -1); !bytes.Equal(got, b) {
		t.Error("a blob that was deleted and put again is another")
	}
}

func testMissing(t *testing.T, s blob.Store) {
	d := soulbox.DigestOf([]byte("never put"))
	wantNone(t, s, d)
	if err := s.Delete(t.Context(), d); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func testList(t *testing.T, s blob.Store) {
	want := map[soulbox.Digest]int64{}
	for n := range 30 {
		want[put(t, s, noise(n))] = int64(n)
	}
	got := list(t, s)
	if len(got) != len(want) {
		t.Errorf("List() has %d blobs, want %d", len(got), len(want))
	}
	for d, n := range want {
		if size, ok := got[d]; !ok || size != n {
			t.Errorf("List() says of %s: %d, %v; want %d", d, size, ok, n)
		}
	}
	for _, err := range s.List(t.Context()) {
		if err != nil {
			t.Errorf("List: %v", err)
		}
		break // is allowed
	}
}

// testAtOnce has many put the same blob, and delete another all the time.
func testAtOnce(t *testing.T, s blob.Store) {
	b := noise(1 << 20)
	d, other := soulbox.DigestOf(b), soulbox.DigestOf([]byte("other"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := s.Put(t.Context(), d, int64(len(b)), bytes.NewReader(b))
			err = errors.Join(err, s.Put(t.Context(), other, 5, strings.NewReader("other")), s.Delete(t.Context(), other))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := read(t, s, d, 0, -1); !bytes.Equal(got, b) {
		t.Error("a blob that many have put is another")
	}
	if all := list(t, s); len(all) != 1 {
		t.Errorf("List() = %v, want one", all)
	}
}

// testCutOff ends puts in their middle: by a sender who is gone, and by a
// context.
func testCutOff(t *testing.T, s blob.Store) {
	gone := errors.New("gone")
	for _, n := range []int{1000, large} {
		b := noise(n)
		d := soulbox.DigestOf(b)
		err := s.Put(t.Context(), d, int64(n), io.MultiReader(bytes.NewReader(b[:n/2]), broken{gone}))
		if !errors.Is(err, gone) {
			t.Errorf("Put of %d bytes: %v, want the sender's error", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = s.Put(ctx, d, int64(n), io.MultiReader(bytes.NewReader(b[:n/2]), ending{cancel}, bytes.NewReader(b[n/2:])))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Put of %d bytes: %v, want Canceled", n, err)
		}
		wantNone(t, s, d)
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// ending calls its function and has nothing.
type ending struct{ f func() }

func (e ending) Read([]byte) (int, error) {
	e.f()
	return 0, io.EOF
}
