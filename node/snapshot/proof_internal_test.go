package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

// TestProof follows a file that was found whole.
func TestProof(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pages")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("right")
	sum := sha256.Sum256([]byte("right"))
	m := manifest{ID: soulbox.NewSnapshotID(), Files: []file{{Name: "pages", Size: 5, SHA256: hex.EncodeToString(sum[:])}}}
	now := time.Now()
	p := &proofs{has: map[identity]proof{}, now: func() time.Time { return now }}
	check := func(when string, whole bool) {
		t.Helper()
		if err := m.check(t.Context(), dir, p); (err == nil) != whole {
			t.Errorf("%s: %v", when, err)
		}
	}

	check("just written", true)
	if len(p.has) > 0 {
		t.Error("a file that may change within a tick of the clock is believed")
	}
	now = now.Add(proofAge)
	check("two seconds later", true)
	if len(p.has) != 1 {
		t.Fatalf("%d proofs, want 1", len(p.has))
	}

	// A file of which it is known that it is whole is not read: this one is not.
	write("wrong")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	check("changed", false)
	now = now.Add(proofAge)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, looks, old := p.look(f, m.Files[0].SHA256)
	if !old {
		t.Fatal("the file is young")
	}
	p.add(id, looks)
	check("with a proof", true)
	if err := m.check(t.Context(), dir, nil); err == nil {
		t.Error("Verify believes a proof")
	}
	now = now.Add(proofTime + time.Second)
	check("an hour later", false)

	// Its time set back gives it away, too: that is a change of the file.
	id, looks, _ = p.look(f, m.Files[0].SHA256)
	p.add(id, looks)
	check("with a new proof", true)
	time.Sleep(20 * time.Millisecond) // longer than a tick
	write("wrung")
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	check("changed, with the old time", false)
}
