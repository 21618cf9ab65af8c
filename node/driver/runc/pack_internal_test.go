package runc

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func tempFile(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A disk is the same after it was packed, holes included, and packed it has no
// more bytes than were written.
func TestPack(t *testing.T) {
	const size = 1 << 30
	disk, packed, again := tempFile(t, "disk"), tempFile(t, "packed"), tempFile(t, "again")
	if err := disk.Truncate(size); err != nil {
		t.Fatal(err)
	}
	written := map[int64]string{0: "first", 40 << 20: strings.Repeat("middle", 1<<20), size - 4: "last"}
	for at, text := range written {
		if _, err := disk.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := pack(t.Context(), packed, disk); err != nil {
		t.Fatal(err)
	}
	if fi, err := packed.Stat(); err != nil || fi.Size() > 7<<20 {
		t.Errorf("packed: %d bytes, %v; want hardly more than the 6 MiB that were written", fi.Size(), err)
	}
	if _, err := packed.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := unpack(t.Context(), again, packed, size); err != nil {
		t.Fatal(err)
	}
	if fi, err := again.Stat(); err != nil || fi.Size() != size {
		t.Errorf("unpacked: %d bytes, %v; want %d", fi.Size(), err, size)
	}
	for at, text := range written {
		got := make([]byte, len(text))
		if _, err := again.ReadAt(got, at); err != nil || string(got) != text {
			t.Errorf("at %d: %.20q, %v; want %.20q", at, got, err, text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pack(ctx, tempFile(t, "none"), disk); err == nil {
		t.Error("it is packed although nobody waits")
	}
}

// sink is a file of at most so many bytes.
type sink struct{ at, most int64 }

func (s *sink) Seek(to int64, _ int) (int64, error) { s.at = to; return to, nil }
func (s *sink) Write(p []byte) (int, error) {
	if s.at += int64(len(p)); s.at > s.most {
		panic("written behind the end")
	}
	return len(p), nil
}

// FuzzUnpack: whatever a damaged disk says, nothing is written behind the end of
// the new one.
func FuzzUnpack(f *testing.F) {
	ints := func(n ...int64) []byte {
		var b bytes.Buffer
		_ = binary.Write(&b, binary.BigEndian, n) // into memory
		return b.Bytes()
	}
	const size = 4096
	f.Add(ints(size, size, 0))
	f.Add(append(ints(size, 4088, 8), ints(7, size, 0)...))
	f.Add(append(ints(size, 4090, 8), ints(7, size, 0)...))
	f.Add(ints(size, -1, 8, 7))
	f.Add(ints(size, 1<<62, 1<<62, 7))
	f.Add(ints(size, 0, 0))
	f.Add(ints(size+1, size+1, 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := unpack(t.Context(), &sink{most: size}, bytes.NewReader(b), size)
		if whole := len(b) >= 24 && bytes.HasPrefix(b, ints(size)); err == nil && !whole {
			t.Errorf("unpack(%x) succeeds", b)
		}
	})
}
