package template

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
)

// secrets are what a build may know and nobody else: who it is at registries,
// and what its steps may read. They are in no record and in no log.
type secrets struct {
	Logins map[string]soulbox.Login `json:"logins,omitempty"`
	Values map[string][]byte        `json:"values,omitempty"`
}

const secretsName = "secrets"

// seal keeps the secrets of a build, so that it can go on after a restart: in its
// folder, encrypted under a key that follows from the installation's own secret.
// A build without secrets has no file.
func (r *Registry) seal(id soulbox.BuildID, s secrets) error {
	path := filepath.Join(r.BuildDir, string(id), secretsName)
	if len(s.Logins)+len(s.Values) == 0 {
		return ignoreMissing(os.Remove(path))
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return err
	}
	box, err := r.box()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// The build's id is part of it, so that no other build can open it.
	if err := os.WriteFile(path+".next", box.Seal(nil, nil, plain, []byte(id)), 0o600); err != nil { //nolint:gosec // NewGCMWithRandomNonce makes the nonce
		return err
	}
	return os.Rename(path+".next", path)
}

// unseal returns the secrets of a build.
func (r *Registry) unseal(id soulbox.BuildID) (s secrets, err error) {
	b, err := os.ReadFile(filepath.Join(r.BuildDir, string(id), secretsName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read secrets of build %s: %w", id, err)
	}
	box, err := r.box()
	if err != nil {
		return s, err
	}
	plain, err := box.Open(nil, nil, b, []byte(id))
	if err == nil {
		err = json.Unmarshal(plain, &s)
	}
	if err != nil {
		return secrets{}, fmt.Errorf("read secrets of build %s: %w", id, err)
	}
	return s, nil
}

// forget removes the secrets of a build that is over.
func (r *Registry) forget(id soulbox.BuildID) error {
	return ignoreMissing(os.Remove(filepath.Join(r.BuildDir, string(id), secretsName)))
}

// box is what seals. Its nonces are random, of which a key may see 2³².
func (r *Registry) box() (cipher.AEAD, error) {
	key := r.Seed.BuildKey()
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
