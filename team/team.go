// Package team knows the teams and the keys by which they are recognised.
//
// A key is "e2b_" and forty hex digits, the one form that every E2B client
// accepts. It is shown once, when it is made; what is remembered is its
// SHA-256. The keys are random, so a fast hash is enough: there is nothing to
// guess.
//
// # Cost
//
// A key that was seen lately is found in memory; after a short while it is
// looked up again, because another server on the same database may have
// revoked it. A key that this server revokes is refused at once.
package team

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

// records is the part of the store that a directory needs.
type records interface {
	InsertTeam(ctx context.Context, t *soulbox.Team) error
	SetTeamLimits(ctx context.Context, id soulbox.TeamID, l soulbox.Limits) error
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)
	TeamBySlug(ctx context.Context, slug string) (*soulbox.Team, error)

	InsertKey(ctx context.Context, k *soulbox.Key) error
	KeyByHash(ctx context.Context, hash string) (*soulbox.Key, error)
	Keys(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Key, error)
	RenameKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID, name string) error
	TouchKey(ctx context.Context, id soulbox.KeyID, at time.Time) error
	DeleteKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID) error
}

// A Directory answers who somebody is, and hands out and takes back keys. All
// methods are safe for concurrent use.
//
// When a key is used it starts a goroutine that notes it, at most once a
// minute for each key; Close waits for those.
type Directory struct {
	log   *slog.Logger
	store records
	limit soulbox.Limits

	notes sync.WaitGroup

	mu     sync.RWMutex
	known  map[hash]*visit // +checklocks:mu
	purges uint64          // how often something left known; +checklocks:mu
	closed bool            // +checklocks:mu
}

const (
	keyPrefix   = "e2b_"
	keyRandom   = 20 // bytes; 160 bits
	defaultSlug = "default"
	maxKeyName  = 100 // characters; a line in a table
)

// New returns a directory. The default team gets the limits.
func New(log *slog.Logger, store records, limits soulbox.Limits) *Directory {
	return &Directory{log: log, store: store, limit: limits, known: map[hash]*visit{}}
}

// Close waits for notes under way. Authenticate still works after it, and
// notes nothing.
func (d *Directory) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.notes.Wait()
	return nil
}

// EnsureDefault makes the default team, or brings its limits up to date.
func (d *Directory) EnsureDefault(ctx context.Context) (*soulbox.Team, error) {
	t, err := d.store.TeamBySlug(ctx, defaultSlug)
	switch {
	case soulbox.KindOf(err) == soulbox.NotFound:
		t = &soulbox.Team{ID: soulbox.TeamID(newUUID()), Name: "Default", Slug: defaultSlug, Limits: d.limit, CreatedAt: now()}
		err = d.store.InsertTeam(ctx, t)
	case err == nil && t.Limits != d.limit:
		t.Limits = d.limit
		err = d.store.SetTeamLimits(ctx, t.ID, d.limit)
	}
	if err != nil {
		return nil, fmt.Errorf("ensure default team: %w", err)
	}
	return t, nil
}

// Team returns the team with an id.
func (d *Directory) Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error) {
	return d.store.Team(ctx, id)
}

// Keys returns the keys of a team, oldest first.
func (d *Directory) Keys(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Key, error) {
	return d.store.Keys(ctx, team)
}

// CreateKey makes a key for a team and returns it in plain once.
func (d *Directory) CreateKey(ctx context.Context, team soulbox.TeamID, name string) (plain string, key *soulbox.Key, err error) {
	if name, err = keyName(name); err != nil {
		return "", nil, err
	}
	random := make([]byte, keyRandom)
	_, _ = rand.Read(random) // never fails: crypto/rand ends the program instead
	plain = keyPrefix + hex.EncodeToString(random)
	key = &soulbox.Key{
		ID:        soulbox.KeyID(newUUID()),
		Team:      team,
		Name:      name,
		Hash:      hashOf(plain).String(),
		Suffix:    plain[len(plain)-4:],
		CreatedAt: now(),
	}
	if err := d.store.InsertKey(ctx, key); err != nil {
		return "", nil, fmt.Errorf("create key: %w", err)
	}
	d.log.InfoContext(ctx, "key created", "team", team, "key", key.ID)
	return plain, key, nil
}

// RenameKey changes the name of a team's key. A key that is unknown or of
// another team is NotFound.
func (d *Directory) RenameKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID, name string) error {
	name, err := keyName(name)
	if err != nil {
		return err
	}
	return d.store.RenameKey(ctx, team, id, name)
}

// RevokeKey forgets a team's key. When it returns, nobody is let in with it.
// A key that is unknown or of another team is NotFound.
func (d *Directory) RevokeKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID) error {
	err := d.store.DeleteKey(ctx, team, id)
	d.forget(id) // also when deleting failed: it costs one more look
	if err != nil {
		return err
	}
	d.log.InfoContext(ctx, "key revoked", "team", team, "key", id)
	return nil
}

// keyName returns the name of a key as it is kept, or says what is wrong.
func keyName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if n := utf8.RuneCountInString(name); n < 1 || n > maxKeyName {
		return "", soulbox.Errorf(soulbox.Invalid, "the name of a key has 1 to %d characters, not %d", maxKeyName, n)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", soulbox.Errorf(soulbox.Invalid, "the name of a key must be printable text")
	}
	return name, nil
}

// hash is what we know of a key.
type hash [sha256.Size]byte

func hashOf(plain string) hash { return sha256.Sum256([]byte(plain)) }

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// now is the time with the precision of the store.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
