// Package blob keeps bytes under their digests: layers, configurations and
// manifests of images. blob/dir keeps them in a folder and blob/s3 in a bucket;
// blob/blobtest is the suite that both pass.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"iter"
	"time"

	"github.com/soulbox/soulbox"
)

// A Store keeps blobs. It is safe for concurrent use, also by several callers
// that do the same.
type Store interface {
	// Put stores what r has, which must be size bytes with the digest d, or is
	// Invalid and changes nothing. When it returns, the blob survives a power
	// cut; when it is cut off, also by a crash, there is no part of one. A
	// blob that is there already is as new afterwards.
	Put(ctx context.Context, d soulbox.Digest, size int64, r io.Reader) error

	// Open returns length bytes of a blob from offset on, or all that follow
	// it if length is below 0. The caller closes it. One that is not there is
	// NotFound.
	Open(ctx context.Context, d soulbox.Digest, offset, length int64) (io.ReadCloser, error)

	// Stat tells about a blob; one that is not there is NotFound.
	Stat(ctx context.Context, d soulbox.Digest) (Info, error)

	// Delete removes a blob. One that is not there is no error, so that it can
	// be repeated.
	Delete(ctx context.Context, d soulbox.Digest) error

	// List returns every blob, in no order. What comes and goes meanwhile may
	// be among them or not. An error is the last.
	List(ctx context.Context) iter.Seq2[Info, error]
}

// Info is what a [Store] knows of a blob.
type Info struct {
	Digest soulbox.Digest
	Size   int64
	At     time.Time // when it was put last
}

// None is the error for a blob that is not there.
func None(d soulbox.Digest) error {
	return soulbox.Errorf(soulbox.NotFound, "there is no blob %s", d)
}

// Check returns r as far as it has what is expected: the end comes only after
// size bytes with the digest d, and instead of it an Invalid error.
func Check(r io.Reader, d soulbox.Digest, size int64) io.Reader {
	// One byte more than there should be, so that more is noticed.
	return &checker{r: io.LimitReader(r, size+1), digest: d, left: size, sum: sha256.New()}
}

type checker struct {
	r      io.Reader
	digest soulbox.Digest
	left   int64
	sum    hash.Hash
}

func (c *checker) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.left -= int64(n)
	switch {
	case c.left < 0:
		return 0, soulbox.Errorf(soulbox.Invalid, "there are more bytes than blob %s should have", c.digest)
	case err != io.EOF: // readers return io.EOF itself
		return n, err
	case c.left > 0:
		return n, soulbox.Errorf(soulbox.Invalid, "%d bytes of blob %s are missing", c.left, c.digest)
	}
	if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.digest.Hex() {
		return n, soulbox.Errorf(soulbox.Invalid, "the bytes have digest sha256:%s instead of %s", got, c.digest)
	}
	return n, io.EOF
}
