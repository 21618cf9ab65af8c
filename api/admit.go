package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/soulbox/soulbox"
)

// authenticator knows who has which key.
type authenticator interface {
	// Authenticate returns the owner of plainKey, or an Unauthenticated error.
	Authenticate(ctx context.Context, plainKey string) (soulbox.Actor, error)
}

// maxKey bounds what is looked up: ours have 44 characters.
const maxKey = 256

// Key returns the API key that came with r: the header X-API-KEY, or the token
// of Authorization: Bearer, as E2B's CLI sends it, or the password of
// Authorization: Basic, whoever the user is, as `docker login` keeps it. It is
// empty if there is none.
func Key(r *http.Request) string {
	if key := r.Header.Get("X-API-KEY"); key != "" {
		return key
	}
	if _, password, ok := r.BasicAuth(); ok {
		return strings.TrimSpace(password)
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// admit returns who makes the request, if it may and is not too quick.
func (a *API) admit(r *http.Request, p Permission) (soulbox.Actor, error) {
	key := Key(r)
	switch {
	case key == "":
		return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "an API key is needed, in the header X-API-KEY")
	case len(key) > maxKey:
		return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "the API key is not valid")
	}
	actor, err := a.auth.Authenticate(r.Context(), key)
	if err != nil {
		return soulbox.Actor{}, err
	}
	if err := a.limits.take(actor.Key); err != nil {
		return actor, err
	}
	if !may(actor, p) {
		return actor, soulbox.Errorf(soulbox.Forbidden, "this key lacks the permission %s", p)
	}
	return actor, nil
}
