package team_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/team"
)

var limits = soulbox.Limits{Sandboxes: 3, Timeout: time.Hour, Memory: soulbox.GiB, CPUs: 2}

// counting counts how often a key is looked up, and can hold a look-up back.
type counting struct {
	*store.Store
	looks  atomic.Int32
	onLook func() // after the look; may be nil
}

func (c *counting) KeyByHash(ctx context.Context, hash string) (*soulbox.Key, error) {
	c.looks.Add(1)
	k, err := c.Store.KeyByHash(ctx, hash)
	if c.onLook != nil {
		c.onLook()
	}
	return k, err
}

// open returns a directory with the default team and its first key.
func open(t *testing.T) (d *team.Directory, s *counting, us *soulbox.Team, key string) {
	t.Helper()
	db, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "soulbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s = &counting{Store: db}
	d = team.New(slog.New(slog.DiscardHandler), s, limits)
	t.Cleanup(func() { d.Close() })
	if us, err = d.EnsureDefault(context.Background()); err != nil {
		t.Fatal(err)
	}
	if key, _, err = d.CreateKey(context.Background(), us.ID, "first"); err != nil {
		t.Fatal(err)
	}
	return d, s, us, key
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: error %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}

func TestEnsureDefault(t *testing.T) {
	d, s, us, key := open(t)
	if us.Slug != "default" || us.Limits != limits || us.CreatedAt.IsZero() {
		t.Errorf("default team: %+v", us)
	}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !uuid.MatchString(string(us.ID)) {
		t.Errorf("id %q is no random UUID", us.ID)
	}
	if !regexp.MustCompile(`^e2b_[0-9a-f]{40}$`).MatchString(key) {
		t.Errorf("key %q has not the form that clients accept", key)
	}

	more := limits
	more.Sandboxes = 99
	again := team.New(slog.New(slog.DiscardHandler), s, more)
	same, err := again.EnsureDefault(t.Context())
	if err != nil || same.ID != us.ID || same.Limits != more {
		t.Errorf("EnsureDefault again = %+v, %v; want the same team with new limits", same, err)
	}
	got, err := d.Team(t.Context(), us.ID)
	if err != nil || got.Limits != more {
		t.Errorf("Team = %+v, %v; want the new limits on record", got, err)
	}
}

func TestKeys(t *testing.T) {
	d, s, us, first := open(t)
	ctx := t.Context()
	plain, k, err := d.CreateKey(ctx, us.ID, "  laptop ")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(plain))
	if plain == first || k.Name != "laptop" || k.Hash != hex.EncodeToString(sum[:]) || !strings.HasSuffix(plain, k.Suffix) || len(k.Suffix) != 4 {
		t.Errorf("CreateKey = %+v, %q", k, plain)
	}
	actor, err := d.Authenticate(ctx, plain)
	if err != nil || actor != (soulbox.Actor{Team: us.ID, Key: k.ID}) {
		t.Errorf("Authenticate = %+v, %v", actor, err)
	}
	if err := d.RenameKey(ctx, us.ID, k.ID, "desktop"); err != nil {
		t.Error(err)
	}
	keys, err := d.Keys(ctx, us.ID)
	if err != nil || len(keys) != 2 || keys[1].Name != "desktop" {
		t.Errorf("Keys = %v, %v; want the renamed one second", keys, err)
	}
	for _, name := range []string{"", "   ", strings.Repeat("x", 101), "a\nb", "a\x00", "\xff"} {
		_, _, err := d.CreateKey(ctx, us.ID, name)
		wantKind(t, "CreateKey called "+name, err, soulbox.Invalid)
		wantKind(t, "RenameKey to "+name, d.RenameKey(ctx, us.ID, k.ID, name), soulbox.Invalid)
	}
	if err := s.InsertTeam(ctx, &soulbox.Team{ID: "them", Slug: "them"}); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "RenameKey by another team", d.RenameKey(ctx, "them", k.ID, "x"), soulbox.NotFound)
	wantKind(t, "RevokeKey by another team", d.RevokeKey(ctx, "them", k.ID), soulbox.NotFound)
	if _, err := d.Authenticate(ctx, plain); err != nil {
		t.Errorf("after another team's RevokeKey: %v", err)
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	d, _, _, key := open(t)
	sentences := map[string]bool{}
	for name, plain := range map[string]string{
		"nothing":         "",
		"unknown":         "e2b_" + strings.Repeat("0", 40),
		"without prefix":  strings.TrimPrefix(key, "e2b_"),
		"other case":      strings.ToUpper(key),
		"with a space":    key + " ",
		"cut off":         key[:43],
		"very long":       key + strings.Repeat("x", 1<<20),
		"not text":        "\x00\xff",
		"SQL":             "' OR 1=1 --",
		"the hash itself": func() string { h := sha256.Sum256([]byte(key)); return hex.EncodeToString(h[:]) }(),
	} {
		_, err := d.Authenticate(t.Context(), plain)
		wantKind(t, name, err, soulbox.Unauthenticated)
		sentences[soulbox.MessageOf(err)] = true
	}
	if len(sentences) != 1 {
		t.Errorf("the refusals differ: %v", sentences)
	}
}

func TestAuthenticateAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s, _, key := open(t)
		for range 1000 {
			if _, err := d.Authenticate(context.Background(), key); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.looks.Load(); n != 1 {
			t.Errorf("%d look-ups for 1000 requests, want 1", n)
		}
		// A key that another server revokes is refused soon.
		k, err := s.Keys(context.Background(), mustTeam(t, s))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteKey(context.Background(), k[0].Team, k[0].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		_, err = d.Authenticate(context.Background(), key)
		wantKind(t, "Authenticate 11 s after another server revoked it", err, soulbox.Unauthenticated)
		d.Close()
		s.Close()
	})
}

func mustTeam(t *testing.T, s *counting) soulbox.TeamID {
	t.Helper()
	us, err := s.TeamBySlug(context.Background(), "default")
	if err != nil {
		t.Fatal(err)
	}
	return us.ID
}

func TestRevokeAtOnce(t *testing.T) {
	d, _, us, key := open(t)
	actor, err := d.Authenticate(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.RevokeKey(t.Context(), us.ID, actor.Key); err != nil {
		t.Fatal(err)
	}
	_, err = d.Authenticate(t.Context(), key)
	wantKind(t, "Authenticate with a revoked key", err, soulbox.Unauthenticated)
}

// TestRevokeDuringLookUp revokes a key after it was found and before it is
// remembered: it must not be remembered.
func TestRevokeDuringLookUp(t *testing.T) {
	d, s, us, key := open(t)
	keys, err := d.Keys(t.Context(), us.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.onLook = func() {
		s.onLook = nil
		if err := d.RevokeKey(t.Context(), us.ID, keys[0].ID); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.Authenticate(t.Context(), key); err != nil {
		t.Errorf("the request that came before: %v", err)
	}
	_, err = d.Authenticate(t.Context(), key)
	wantKind(t, "Authenticate afterwards", err, soulbox.Unauthenticated)
}

func TestLastUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s, us, key := open(t)
		used := func() time.Time {
			t.Helper()
			synctest.Wait()
			keys, err := d.Keys(context.Background(), us.ID)
			if err != nil {
				t.Fatal(err)
			}
			return keys[0].LastUsed
		}
		if at := used(); !at.IsZero() {
			t.Errorf("a new key was used at %v", at)
		}
		visit := func() time.Time {
			t.Helper()
			if _, err := d.Authenticate(context.Background(), key); err != nil {
				t.Error(err)
			}
			return used()
		}
		first := visit()
		if time.Since(first) > time.Second {
			t.Errorf("used at %v, want now", first)
		}
		time.Sleep(50 * time.Second)
		if at := visit(); !at.Equal(first) {
			t.Errorf("noted again after 50 s: %v", at)
		}
		time.Sleep(15 * time.Second)
		if at := visit(); at.Sub(first) != 65*time.Second {
			t.Errorf("after 65 s noted %v later, want 65 s", at.Sub(first))
		}
		d.Close()
		s.Close()
	})
}

func TestManyAtOnce(t *testing.T) {
	d, _, us, key := open(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := d.Authenticate(context.Background(), key); err != nil {
				t.Error(err)
			}
			if i%10 != 0 {
				return
			}
			plain, k, err := d.CreateKey(context.Background(), us.ID, "short-lived")
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := d.Authenticate(context.Background(), plain); err != nil {
				t.Error(err)
			}
			if err := d.RevokeKey(context.Background(), us.ID, k.ID); err != nil {
				t.Error(err)
			}
			_, err = d.Authenticate(context.Background(), plain)
			wantKind(t, "Authenticate with a revoked key", err, soulbox.Unauthenticated)
		})
	}
	wg.Wait()
}
