package oci

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/soulbox/soulbox"
)

// begin begins an upload; with ?digest= it is all of it, and with ?mount= it may
// not be needed.
func (o *room) begin(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		digest, err := parseDigest(mount)
		if err != nil {
			return err
		}
		mounted, err := o.mount(r, who, repo, query.Get("from"), digest)
		if err != nil {
			return err
		}
		if mounted {
			return created(w, repo, digest)
		}
	}
	var digest soulbox.Digest
	if s := query.Get("digest"); s != "" {
		if digest, err = parseDigest(s); err != nil {
			return err
		}
	}
	id, err := o.depot.BeginUpload(r.Context(), who.Team, repo)
	if err != nil {
		return err
	}
	if digest == "" {
		return accepted(w, repo, id, 0, http.StatusAccepted)
	}
	if err := o.depot.FinishUpload(r.Context(), who.Team, repo, id, -1, digest, r.Body); err != nil {
		_ = o.depot.CancelUpload(r.Context(), who.Team, repo, id) // nobody knows its id; it is forgotten anyway
		return ended(err)
	}
	return created(w, repo, digest)
}

// mount reports whether a blob of another repository will do. If not, the client
// sends it, as the specification says.
func (o *room) mount(r *http.Request, who soulbox.Actor, repo soulbox.Repository, from string, digest soulbox.Digest) (bool, error) {
	other, err := parseRepository(from)
	if err != nil {
		return false, nil //nolint:nilerr // from is a hint, and may be missing
	}
	err = o.depot.MountBlob(r.Context(), who.Team, repo, other, digest)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return false, nil
	}
	return err == nil, err
}

// status tells how much of an upload has arrived.
func (o *room) status(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	id := r.PathValue("upload")
	size, err := o.depot.UploadSize(r.Context(), who.Team, repo, id)
	if err != nil {
		return err
	}
	return accepted(w, repo, id, size, http.StatusNoContent)
}

// add takes the next part of an upload.
func (o *room) add(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	offset, err := start(r)
	if err != nil {
		return err
	}
	id := r.PathValue("upload")
	size, err := o.depot.AppendUpload(r.Context(), who.Team, repo, id, offset, r.Body)
	if err != nil {
		return ended(err)
	}
	return accepted(w, repo, id, size, http.StatusAccepted)
}

// finish takes the last part of an upload, which may be nothing, and its digest.
func (o *room) finish(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	digest, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	offset, err := start(r)
	if err != nil {
		return err
	}
	if err := o.depot.FinishUpload(r.Context(), who.Team, repo, r.PathValue("upload"), offset, digest, r.Body); err != nil {
		return ended(err)
	}
	return created(w, repo, digest)
}

func (o *room) cancel(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	if err := o.depot.CancelUpload(r.Context(), who.Team, repo, r.PathValue("upload")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// start reads where a part of an upload begins; below 0: the client does not say.
func start(r *http.Request) (int64, error) {
	s := r.Header.Get("Content-Range")
	if s == "" {
		return -1, nil
	}
	first, _, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || err != nil || n < 0 {
		return 0, soulbox.Errorf(soulbox.Invalid, "Content-Range must be FIRST-LAST, not %.100q", s)
	}
	return n, nil
}

// ended gives an error of sending an upload the code that it has.
func ended(err error) error {
	switch soulbox.KindOf(err) {
	case soulbox.Conflict:
		return coded(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", err)
	case soulbox.Invalid:
		return coded(http.StatusBadRequest, "DIGEST_INVALID", err)
	default:
		return err
	}
}

// created says that a blob is there.
func created(w http.ResponseWriter, repo soulbox.Repository, digest soulbox.Digest) error {
	h := w.Header()
	h.Set("Location", fmt.Sprintf("/v2/%s/blobs/%s", repo, digest))
	h.Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// accepted says where an upload is, and how much of it. The address has no host:
// a client knows best under which one it has found us.
func accepted(w http.ResponseWriter, repo soulbox.Repository, id string, size int64, status int) error {
	h := w.Header()
	h.Set("Location", fmt.Sprintf("/v2/%s/blobs/uploads/%s", repo, id))
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
	w.WriteHeader(status)
	return nil
}
