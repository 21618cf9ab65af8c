// Package oci is the part of the control plane that Docker and other tools for
// images know: the OCI distribution specification, as far as pushing, pulling
// and listing tags go, under /v2/TEAM/NAME. What is pushed becomes a template.
//
// E2B has paths under /v2, too. None of them can be taken for one of these,
// because here the third part after the name is a word of the specification.
//
// A key is the password of HTTP's Basic scheme, with any user. Errors have the
// specification's JSON and its codes.
package oci

import (
	"context"
	"io"
	"net/http"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// depot is what this room needs of whoever keeps images. What a team may not
// see is NotFound, as if it did not exist; where it may not push is Forbidden,
// whether it exists or not.
type depot interface {
	// Blob returns a blob's size. With keep it promises to the team whose
	// repository it is that the blob stays for a while.
	Blob(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, d soulbox.Digest, keep bool) (int64, error)
	// OpenBlob opens one that Blob has found.
	OpenBlob(ctx context.Context, d soulbox.Digest, offset, length int64) (io.ReadCloser, error)
	// MountBlob is NotFound if the other repository has none that the team sees.
	MountBlob(ctx context.Context, team soulbox.TeamID, repo, from soulbox.Repository, d soulbox.Digest) error

	BeginUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) (id string, err error)
	UploadSize(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string) (int64, error)
	// AppendUpload and FinishUpload are a Conflict if the upload does not go
	// on at offset, unless that is below 0.
	AppendUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string, offset int64, r io.Reader) (int64, error)
	FinishUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string, offset int64, d soulbox.Digest, r io.Reader) error
	CancelUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string) error

	// Manifest takes a tag or a digest, as PutManifest does.
	Manifest(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, ref string) (soulbox.Manifest, error)
	PutManifest(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, ref, kind string, content []byte) (soulbox.Digest, error)
	// Tags returns those under which something can be pulled, in order.
	Tags(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) ([]string, error)
}

// room answers the requests of the specification.
type room struct{ depot depot }

const maxManifest = 4 << 20 // bytes; what other registries accept

// Routes returns the rows of the distribution specification.
func Routes(d depot) []api.Route {
	o := &room{d}
	const (
		get    = http.MethodGet // and HEAD
		post   = http.MethodPost
		put    = http.MethodPut
		patch  = http.MethodPatch
		remove = http.MethodDelete

		blobs     = "/v2/{team}/{name}/blobs/{digest}"
		manifests = "/v2/{team}/{name}/manifests/{reference}"
		uploads   = "/v2/{team}/{name}/blobs/uploads/{$}"
		upload    = "/v2/{team}/{name}/blobs/uploads/{upload}"
	)
	rows := []api.Route{
		{Verb: get, Path: "/v2/{$}", Permission: api.ReadTemplates, Handle: o.hello, Refuse: refuseAs(names)},
		{Verb: get, Path: "/v2/{team}/{name}/tags/list", Permission: api.ReadTemplates, Handle: o.tags, Refuse: refuseAs(names)},

		{Verb: get, Path: manifests, Permission: api.ReadTemplates, Handle: o.manifest, Refuse: refuseAs(gettingManifest)},
		{Verb: put, Path: manifests, Permission: api.WriteTemplates, Handle: o.putManifest, Refuse: refuseAs(puttingManifest), Body: maxManifest},

		{Verb: get, Path: blobs, Permission: api.ReadTemplates, Handle: o.blob, Refuse: refuseAs(gettingBlob)},
		{Verb: post, Path: uploads, Permission: api.WriteTemplates, Handle: o.begin, Refuse: refuseAs(uploading), Upload: true},
		{Verb: get, Path: upload, Permission: api.WriteTemplates, Handle: o.status, Refuse: refuseAs(uploading)},
		{Verb: patch, Path: upload, Permission: api.WriteTemplates, Handle: o.add, Refuse: refuseAs(uploading), Upload: true},
		{Verb: put, Path: upload, Permission: api.WriteTemplates, Handle: o.finish, Refuse: refuseAs(uploading), Upload: true},
		{Verb: remove, Path: upload, Permission: api.WriteTemplates, Handle: o.cancel, Refuse: refuseAs(uploading)},
	}
	return rows
}

// hello says that the specification is spoken here, and that the key is good.
func (o *room) hello(w http.ResponseWriter, _ *http.Request, _ soulbox.Actor) error {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	return api.Answer(w, http.StatusOK, struct{}{})
}

// repository reads the name of one. No letter is lowered: images of two names
// would be one.
func repository(r *http.Request) (soulbox.Repository, error) {
	return parseRepository(r.PathValue("team") + "/" + r.PathValue("name"))
}

func parseRepository(s string) (soulbox.Repository, error) {
	ref, err := soulbox.ParseTemplateRef(s)
	repo := soulbox.Repository{Namespace: ref.Namespace, Name: ref.Name}
	if err != nil || repo.String() != s {
		return repo, coded(http.StatusBadRequest, "NAME_INVALID",
			soulbox.Errorf(soulbox.Invalid, "%.200q: a repository is called TEAM/NAME, both of a-z, 0-9, - and _", s))
	}
	return repo, nil
}

func parseDigest(s string) (soulbox.Digest, error) {
	d, err := soulbox.ParseDigest(s)
	if err != nil {
		err = coded(http.StatusBadRequest, "DIGEST_INVALID", err)
	}
	return d, err
}
