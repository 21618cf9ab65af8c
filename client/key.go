package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Keys makes and revokes the API keys of the team whose key the client has.
type Keys struct{ c *Client }

// A Key is what the server remembers of an API key.
type Key struct {
	ID        string
	Name      string
	Suffix    string // the last characters of the key, for telling it from others
	CreatedAt time.Time
	LastUsed  time.Time // zero: never
	// Secret is the key itself. Only [Keys.Create] knows it, once.
	Secret string
}

// Create makes a key; name is for people.
func (k *Keys) Create(ctx context.Context, name string) (*Key, error) {
	in := struct {
		Name string `json:"name"`
	}{name}
	var out keyWire
	if err := k.c.call(ctx, http.MethodPost, "/v1/keys", nil, in, &out); err != nil {
		return nil, err
	}
	return out.key(), nil
}

// List returns the team's keys.
func (k *Keys) List(ctx context.Context) ([]*Key, error) {
	var page struct {
		Keys []keyWire `json:"keys"`
	}
	if err := k.c.call(ctx, http.MethodGet, "/v1/keys", nil, nil, &page); err != nil {
		return nil, err
	}
	list := make([]*Key, 0, len(page.Keys))
	for _, w := range page.Keys {
		list = append(list, w.key())
	}
	return list, nil
}

// Revoke makes a key useless from now on.
func (k *Keys) Revoke(ctx context.Context, id string) error {
	err := k.c.call(ctx, http.MethodDelete, "/v1/keys/"+url.PathEscape(id), nil, nil, nil)
	return err
}

type keyWire struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Key       string     `json:"key"`
	Suffix    string     `json:"suffix"`
	CreatedAt time.Time  `json:"created_at"`
	LastUsed  *time.Time `json:"last_used"`
}

func (w keyWire) key() *Key {
	k := &Key{ID: w.ID, Name: w.Name, Suffix: w.Suffix, CreatedAt: w.CreatedAt, Secret: w.Key}
	if w.LastUsed != nil {
		k.LastUsed = *w.LastUsed
	}
	return k
}
