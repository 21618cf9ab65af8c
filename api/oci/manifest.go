package oci

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// manifest gives one, by its tag or digest, as it was pushed.
func (o *room) manifest(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	m, err := o.depot.Manifest(r.Context(), who.Team, repo, r.PathValue("reference"))
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", string(m.Digest))
	api.Send(w, http.StatusOK, m.Type, m.Content)
	return nil
}

// putManifest takes one, and answers when a template is made of it.
func (o *room) putManifest(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	ref := r.PathValue("reference")
	kind := r.Header.Get("Content-Type")
	if kind != "" {
		if kind, _, err = mime.ParseMediaType(kind); err != nil {
			return soulbox.Errorf(soulbox.Invalid, "Content-Type %.100q is not a media type", r.Header.Get("Content-Type"))
		}
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if want, err := soulbox.ParseDigest(ref); err == nil {
		if got := soulbox.DigestOf(content); got != want {
			return coded(http.StatusBadRequest, "DIGEST_INVALID", soulbox.Errorf(soulbox.Invalid, "the manifest has digest %s instead of %s", got, want))
		}
	} else if _, err := soulbox.ParseTag(ref); err != nil {
		return coded(http.StatusBadRequest, "TAG_INVALID", err)
	}
	digest, err := o.depot.PutManifest(r.Context(), who.Team, repo, ref, kind, content)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", fmt.Sprintf("/v2/%s/manifests/%s", repo, digest))
	h.Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tags lists those that can be pulled, a page at a time if the client says n.
func (o *room) tags(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	n := -1
	if s := query.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return coded(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", soulbox.Errorf(soulbox.Invalid, "n must be a number, not %.50q", s))
		}
	}
	all, err := o.depot.Tags(r.Context(), who.Team, repo)
	if err != nil {
		return err
	}
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if n >= 0 && n < len(all) {
		all = all[:n]
		if n > 0 {
			next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
			w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, repo, next.Encode()))
		}
	}
	return api.Answer(w, http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repo.String(), all})
}
