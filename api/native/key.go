package native

import (
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

func (n *room) listKeys(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	keys, err := n.keys.Keys(r.Context(), who.Team)
	if err != nil {
		return err
	}
	out := keyList{Keys: make([]keyAnswer, len(keys))}
	for i, k := range keys {
		out.Keys[i] = keyOf(k, "")
	}
	return api.Answer(w, http.StatusOK, out)
}

const maxKeyName = 128 // bytes; a label, not a document

func (n *room) createKey(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Name string `json:"name"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	name := strings.TrimSpace(body.Name)
	if name == "" || len(name) > maxKeyName || strings.ContainsRune(name, 0) {
		return soulbox.Errorf(soulbox.Invalid, "name must have 1 to %d bytes", maxKeyName)
	}
	plain, key, err := n.keys.CreateKey(r.Context(), who.Team, name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, keyOf(key, plain))
}

func (n *room) revokeKey(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := uuid.Parse(r.PathValue("key"))
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a key: those are UUIDs", r.PathValue("key"))
	}
	if err := n.keys.RevokeKey(r.Context(), who.Team, soulbox.KeyID(id.String())); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
