package template

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/jsonfile"
)

// contextLife is how long a context is kept of which no build was made.
const contextLife = 24 * time.Hour

// TakeContext keeps a tar, plain or compressed with gzip, as the context of one
// build, and returns the hash by which its recipe names it. It goes when that
// build is over. Nobody else is going to ask for it, so the hash is not that of
// anything: what is in a context is compared when it is built.
func (r *Registry) TakeContext(ctx context.Context, team soulbox.TeamID, archive io.Reader) (hash string, err error) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	hash = hex.EncodeToString(b[:])
	n, err := r.takeIn(ctx, team, hash, archive, true)
	if err != nil {
		return "", fmt.Errorf("take context in: %w", err)
	}
	r.Log.InfoContext(ctx, "context taken in", "team", team, "hash", hash, "entries", n.Entries, "bytes", n.Bytes)
	return hash, nil
}

// dropContext removes the context of a build that is over, if it was for that
// build alone.
func (r *Registry) dropContext(b *soulbox.Build) error {
	if !validHash(b.Recipe.Context) {
		return nil
	}
	path := filepath.Join(r.teamDir(b.Team), b.Recipe.Context)
	if n, err := jsonfile.Load[note](filepath.Join(path, noteName)); err != nil || !n.Once {
		return ignoreMissing(err)
	}
	return os.RemoveAll(path)
}

// lifeOf returns for how long an upload is kept that nobody uses.
func lifeOf(path string) time.Duration {
	if n, err := jsonfile.Load[note](filepath.Join(path, noteName)); err == nil && n.Once {
		return contextLife
	}
	return uploadLife
}
