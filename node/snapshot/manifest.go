package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/soulbox/soulbox"
)

const (
	manifestVersion = 1
	maxManifest     = 64 << 10 // it has some hundred bytes; anything else is damage
)

// manifest says what a snapshot consists of.
type manifest struct {
	Version int                `json:"version"`
	ID      soulbox.SnapshotID `json:"id"`
	Format  string             `json:"format"` // who can read the files
	Memory  bool               `json:"memory"`
	Image   string             `json:"image"` // SHA-256 of the root image
	Files   []file             `json:"files"`
}

// file is one of the driver's.
type file struct {
	Name   string        `json:"name"`
	Size   int64         `json:"size"` // in bytes
	OnDisk soulbox.Bytes `json:"on_disk"`
	SHA256 string        `json:"sha256"` // in hex
}

func (m *manifest) bytes() soulbox.Bytes {
	var n soulbox.Bytes
	for _, f := range m.Files {
		n += f.OnDisk
	}
	return n
}

// write stores the manifest and its own hash, a line each.
func (m *manifest) write(path string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n", b, hex.EncodeToString(sum[:]))
	return errors.Join(err, f.Sync(), f.Close())
}

// readManifest returns the manifest of snapshot id.
func readManifest(path string, id soulbox.SnapshotID) (manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifest{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return manifest{}, err
	}
	m, err := parseManifest(b)
	if err == nil && m.ID != id {
		err = fmt.Errorf("it is that of %.80q", m.ID)
	}
	return m, err
}

func parseManifest(b []byte) (manifest, error) {
	text, sum, ok := bytes.Cut(b, []byte("\n"))
	want := sha256.Sum256(text)
	if !ok || string(sum) != hex.EncodeToString(want[:])+"\n" {
		return manifest{}, errors.New("its hash does not fit")
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return manifest{}, err
	}
	if m.Version != manifestVersion {
		return manifest{}, fmt.Errorf("it has version %d, and this server reads version %d", m.Version, manifestVersion)
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Name) || filepath.Base(f.Name) != f.Name || f.Name == "." {
			return manifest{}, fmt.Errorf("%.80q is not the name of a file", f.Name)
		}
	}
	return m, nil
}

// describe syncs and hashes the files in dir, beside each other.
func describe(ctx context.Context, dir string, most soulbox.Bytes) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var total soulbox.Bytes
	for _, e := range entries {
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("%.80q, which was saved, is no file", e.Name())
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		total += onDisk(fi)
	}
	if total > most {
		return nil, soulbox.Errorf(soulbox.Invalid, "the sandbox would take %d MiB, and may take %d", total/soulbox.MiB, most/soulbox.MiB)
	}
	files, errs := make([]file, len(entries)), make([]error, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries {
		wg.Go(func() { files[i], errs[i] = describeFile(ctx, dir, e.Name()) })
	}
	wg.Wait()
	return files, errors.Join(errs...)
}

func describeFile(ctx context.Context, dir, name string) (file, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	// The disk works while we count.
	synced := make(chan error, 1)
	go func() { synced <- f.Sync() }()
	sum, n, err := hash(ctx, f)
	if err := errors.Join(err, <-synced); err != nil {
		return file{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	return file{Name: name, Size: n, OnDisk: onDisk(fi), SHA256: sum}, nil
}

func onDisk(fi fs.FileInfo) soulbox.Bytes {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		const block = 512 // whatever the file system's are; see stat(2)
		return soulbox.Bytes(st.Blocks * block)
	}
	return soulbox.Bytes(fi.Size())
}

// check compares the files in dir with the manifest. It reads those only for
// which there is no proof, or all when p is nil.
func (m *manifest) check(ctx context.Context, dir string, p *proofs) error {
	errs := make([]error, len(m.Files))
	var wg sync.WaitGroup
	for i, want := range m.Files {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(dir, want.Name))
			if err == nil {
				err = m.prove(ctx, f, want, p)
				f.Close()
			} else if errors.Is(err, fs.ErrNotExist) {
				err = m.damaged(err, want.Name+" is missing")
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// prove compares f with what it should be, unless there is proof that it is.
func (m *manifest) prove(ctx context.Context, f *os.File, want file, p *proofs) error {
	if p == nil {
		return m.compare(ctx, f, want.Name, want.SHA256, want.Size)
	}
	id, looks, old := p.look(f, want.SHA256)
	if old && p.hold(id, looks) {
		return nil
	}
	err := m.compare(ctx, f, want.Name, want.SHA256, want.Size)
	if err == nil && old {
		p.add(id, looks)
	}
	return err
}

// compare reads f, which is called name, to its end. A negative size fits any.
func (m *manifest) compare(ctx context.Context, f *os.File, name, sum string, size int64) error {
	got, n, err := hash(ctx, f)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil: // a folder in its place, or a disk that cannot give it back
		return m.damaged(err, name+" cannot be read")
	case got != sum || size >= 0 && n != size:
		return m.damaged(nil, "the content of "+name+" has changed")
	}
	return nil
}

func (m *manifest) damaged(err error, how string) error {
	return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("snapshot %s is damaged on this machine: %s", m.ID, how))
}

// hash returns the SHA-256 and the length of r.
func hash(ctx context.Context, r io.Reader) (string, int64, error) {
	const chunk = 1 << 20
	h := sha256.New()
	buf := make([]byte, chunk)
	var total int64
	for {
		if ctx.Err() != nil {
			return "", total, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), total, nil
		}
		if err != nil {
			return "", total, err
		}
	}
}
