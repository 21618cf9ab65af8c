package soulbox

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"regexp"
	"strings"
)

// A Digest names bytes by what they are: "sha256:" and 64 of 0-9 and a-f.
// Everything that takes one from outside checks it with [ParseDigest], because
// digests become file names.
type Digest string

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ParseDigest reads a digest as clients write it. Other algorithms than SHA-256
// exist; nobody uses them.
func ParseDigest(s string) (Digest, error) {
	if !digest.MatchString(s) {
		return "", Errorf(Invalid, "digest %.100q: write sha256: and 64 of 0-9 and a-f", s)
	}
	return Digest(s), nil
}

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// Hex returns the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// A Repository is where images of one template are pushed to and pulled from:
// a team's slug and the template's name.
type Repository struct{ Namespace, Name string }

// String returns the repository as a client would write it.
func (r Repository) String() string { return r.Namespace + "/" + r.Name }

// A Manifest says which parts an image has, in the bytes that its author chose.
type Manifest struct {
	Digest  Digest
	Type    string // its media type
	Content []byte
}

// A Claim is what a team has pushed lately: a blob that stays although no
// template has it yet.
type Claim struct {
	Digest Digest
	Size   int64
}

// ImageParts are an image whose parts are at hand: a manifest, or an index of
// several, and a way to what it names.
type ImageParts struct {
	Name     string // where it came from, for people
	Manifest Manifest

	// Open returns what has a digest. The digest is compared by whoever reads.
	Open func(Digest) (io.ReadCloser, error)
}
