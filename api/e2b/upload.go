package e2b

import (
	"crypto/hmac"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// linkTime is how long an upload may begin with a link. SDKs give an upload an
// hour.
const linkTime = time.Hour

// filesHash names the files of a COPY step. Clients compute it of what they
// copy, from where and to where; it is a name to us and nothing more.
var filesHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// uploadLink tells whether the files with a hash are there, and where they may
// be put. There is a link in any case, for a client that wants to put them
// there again.
func (e *room) uploadLink(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, hash, err := filesInPath(r)
	if err != nil {
		return err
	}
	present, err := e.templates.HasUpload(r.Context(), who.Team, id, hash)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, struct {
		Present bool   `json:"present"`
		URL     string `json:"url"`
	}{present, e.link(r, who.Team, id, hash)})
}

// link returns the address to upload to, at the host where the client has found
// us. Whoever has it needs no key: SDKs send none there.
func (e *room) link(r *http.Request, team soulbox.TeamID, id soulbox.TemplateID, hash string) string {
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" { // set by who speaks TLS for us
		scheme = "https"
	}
	until := time.Now().Add(linkTime)
	return (&url.URL{
		Scheme: scheme,
		Host:   r.Host,
		Path:   "/templates/" + string(id) + "/files/" + hash,
		RawQuery: url.Values{
			"team":    {string(team)},
			"expires": {strconv.FormatInt(until.Unix(), 10)},
			"token":   {e.seed.UploadToken(team, id, hash, until)},
		}.Encode(),
	}).String()
}

// upload takes the files that a link was made for.
func (e *room) upload(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
	id, hash, err := filesInPath(r)
	if err != nil {
		return err
	}
	q := queryOf(r)
	team, until := soulbox.TeamID(q.text("team")), q.unix("expires", time.Second)
	if q.err != nil {
		return q.err
	}
	token := e.seed.UploadToken(team, id, hash, until)
	switch {
	case !hmac.Equal([]byte(token), []byte(q.text("token"))):
		return soulbox.Errorf(soulbox.Forbidden, "this is not a link for uploading; ask for one at GET /templates/{templateID}/files/{hash}")
	case time.Now().After(until):
		return soulbox.Errorf(soulbox.Forbidden, "this link for uploading was good until %s; ask for another one", until.Format(time.RFC3339))
	case r.ContentLength < 0:
		// Of a body whose length is known, net/http tells when it is cut off.
		return soulbox.Errorf(soulbox.Invalid, "an upload needs a Content-Length")
	case r.ContentLength == 0:
		return soulbox.Errorf(soulbox.Invalid, "the upload is empty: it must be a tar, plain or compressed with gzip")
	}
	if err := e.templates.PutUpload(r.Context(), id, hash, r.Body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// filesInPath reads the id of a template and the hash of files.
func filesInPath(r *http.Request) (soulbox.TemplateID, string, error) {
	id, err := templateInPath(r)
	if err != nil {
		return "", "", err
	}
	hash := r.PathValue("hash")
	if !filesHash.MatchString(hash) {
		return "", "", badHash("the hash of the files", hash)
	}
	return id, hash, nil
}

func badHash(what, hash string) error {
	return soulbox.Errorf(soulbox.Invalid, "%s must be 64 of 0-9 and a-f, not %.100q", what, hash)
}
