package buildkit_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

// A guarded registry wants a password and counts who asks for what.
type guarded struct {
	http.Handler

	mu    sync.Mutex
	paths []string // +checklocks:mu of requests that were let through
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	g.mu.Lock()
	g.paths = append(g.paths, r.URL.Path)
	g.mu.Unlock()
	g.Handler.ServeHTTP(w, r)
}

// What is private is had with a password, by those who have it, also once it is
// in the cache.
func TestPrivateRegistry(t *testing.T) {
	g := &guarded{Handler: newRegistry()}
	srv := httptest.NewServer(g)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	b := newBench(t, func(o *buildkit.Options) { o.Registries = append(o.Registries, host) })
	img := must(remote.Image(must(name.ParseReference(b.base))))
	check(remote.Write(must(name.ParseReference(host+"/private:1")), img, remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"})))
	byTag := job(soulbox.Recipe{Dockerfile: "FROM " + host + "/private:1\n"})
	byDigest := job(soulbox.Recipe{Dockerfile: "FROM " + host + "/private@" + must(img.Digest()).String() + "\nRUN true\n"})
	steps := job(soulbox.Recipe{Image: host + "/private:1"})

	jobs := map[string]buildkit.Job{"tag": byTag, "digest": byDigest, "steps": steps}
	for _, round := range []string{"before", "after"} {
		for kind, j := range jobs {
			for who, logins := range map[string]map[string]soulbox.Login{"nobody": nil, "wrong": {host: {User: "me", Password: "wrong"}}, "elsewhere": {"other.example": {User: "me", Password: "secret"}}} {
				j.Credentials, j.Team = logins, soulbox.TeamID(who)
				r := b.build(t.Context(), t, j)
				if r.err == nil || !strings.Contains(r.err.Error(), "401") {
					t.Errorf("%s it was pulled by %s, %s: %v", round, kind, who, r.err)
				}
			}
		}
		if round == "after" {
			continue
		}
		for kind, j := range jobs {
			j.Credentials = map[string]soulbox.Login{host: {User: "me", Password: "secret"}}
			if r := b.build(t.Context(), t, j); r.err != nil {
				t.Errorf("with a password by %s: %v", kind, r.err)
			}
		}
	}
}

// A mirror is asked before the registry that it mirrors, which here nobody can
// reach.
func TestMirror(t *testing.T) {
	b := newBench(t)
	img := must(remote.Image(must(name.ParseReference(b.base))))
	check(remote.Write(must(name.ParseReference(b.registry+"/library/debian:12")), img))
	check(remote.Write(must(name.ParseReference(b.registry+"/cache/org/tool:1")), img))
	b.close(t)
	b.open(t, func(o *buildkit.Options) {
		o.Registries = nil
		o.Mirrors = map[string][]string{"docker.io": {"http://" + b.registry}, "ghcr.example": {"http://" + b.registry + "/cache"}}
	})
	for _, text := range []string{"FROM debian:12\nRUN true\n", "FROM ghcr.example/org/tool:1\nRUN true\n"} {
		if r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: text})); r.err != nil {
			t.Errorf("%q: %v", text, r.err)
		}
	}
	r := b.build(t.Context(), t, job(soulbox.Recipe{Image: "debian:12"}))
	if r.err != nil || !strings.HasPrefix(r.Facts.Base, "docker.io/library/debian:12@sha256:") {
		t.Errorf("base is %q, %v", r.Facts.Base, r.err)
	}
	for _, o := range []buildkit.Options{
		{Registries: []string{"ftp://x"}},
		{Registries: []string{"a b"}},
		{Registries: []string{"http://u:p@x"}},
		{Registries: []string{"x/path"}},
		{Registries: []string{"http://x", "https://x"}},
		{Mirrors: map[string][]string{"docker.io": {""}}},
	} {
		o.Dir = t.TempDir()
		if e, err := buildkit.Open(o); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Open with %v and %v: %v, %v", o.Registries, o.Mirrors, e, err)
		}
	}
}

// A registry that answers wrongly is an error, and soon.
func TestBadRegistry(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"garbage": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"busy":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"realm": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+metadata+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+metadata+"/x", http.StatusTemporaryRedirect)
		},
	}
	for kind, answer := range answers {
		t.Run(kind, func(t *testing.T) {
			srv := httptest.NewServer(answer)
			defer srv.Close()
			host := strings.TrimPrefix(srv.URL, "http://")
			b := newBench(t, func(o *buildkit.Options) { o.Registries = append(o.Registries, host) })
			r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: "FROM " + host + "/x:1\n"}))
			r.wantFailure(t, 0, "")
			if v := internet.visits(metadata); len(v) > 0 {
				t.Errorf("the registry made us ask the metadata service for %v", v)
			}
		})
	}
}
