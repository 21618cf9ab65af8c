package e2b

import (
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// listTeams tells the CLI, when it logs in, which team it works for. It keeps
// the key of the answer, so it gets back the one it came with.
func (e *room) listTeams(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, []teamAnswer{{
		TeamID: string(t.ID), Name: t.Name, APIKey: api.Key(r), IsDefault: true,
	}})
}

func (e *room) listKeys(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	keys, err := e.teams.Keys(r.Context(), who.Team)
	if err != nil {
		return err
	}
	out := make([]keyAnswer, len(keys))
	for i, k := range keys {
		out[i] = keyOf(k, "")
	}
	return api.Answer(w, http.StatusOK, out)
}

func (e *room) createKey(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	name, err := keyName(r)
	if err != nil {
		return err
	}
	plain, k, err := e.teams.CreateKey(r.Context(), who.Team, name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, keyOf(k, plain))
}

func (e *room) renameKey(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseKeyID(r)
	if err != nil {
		return err
	}
	name, err := keyName(r)
	if err != nil {
		return err
	}
	if err := e.teams.RenameKey(r.Context(), who.Team, id, name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (e *room) revokeKey(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseKeyID(r)
	if err != nil {
		return err
	}
	if err := e.teams.RevokeKey(r.Context(), who.Team, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const maxKeyName = 128 // bytes; a label, not a document

func keyName(r *http.Request) (string, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := api.Decode(r, &body); err != nil {
		return "", err
	}
	name := strings.TrimSpace(body.Name)
	if name == "" || len(name) > maxKeyName || strings.ContainsRune(name, 0) {
		return "", soulbox.Errorf(soulbox.Invalid, "name must have 1 to %d bytes", maxKeyName)
	}
	return name, nil
}

func parseKeyID(r *http.Request) (soulbox.KeyID, error) {
	id, err := uuid.Parse(r.PathValue("keyID"))
	if err != nil {
		return "", soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a key: those are UUIDs", r.PathValue("keyID"))
	}
	return soulbox.KeyID(id.String()), nil
}
