package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
)

// credentialsFile is where, in the data folder, the operator's own key is kept.
const credentialsFile = "client.json"

// credentials are the way to a server: where it is and what opens it. The
// server writes its operator's into the data folder when it starts for the
// first time; the database has only the key's hash.
type credentials struct {
	APIURL     string `json:"api_url"`
	APIKey     string `json:"api_key"`
	SandboxURL string `json:"sandbox_url,omitempty"` // empty: the same
}

// defaultData returns the data folder of a user who does not name one.
func defaultData(getenv func(string) string, uid int) string {
	if dir := getenv("SOULBOX_DATA"); dir != "" {
		return dir
	}
	if uid == 0 {
		return "/var/lib/soulbox"
	}
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) { // the standard says to ignore others
		return filepath.Join(dir, "soulbox")
	}
	return filepath.Join(getenv("HOME"), ".local", "share", "soulbox")
}

// readCredentials reads what the server wrote into its data folder.
func readCredentials(data string) (credentials, error) {
	name := filepath.Join(data, credentialsFile)
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return credentials{}, hint(soulbox.Errorf(soulbox.Unavailable, "there is no server that this command knows of: %s does not exist", name),
			"start one with `soulbox serve`, or name one with E2B_API_URL and E2B_API_KEY")
	case errors.Is(err, fs.ErrPermission):
		return credentials{}, hint(soulbox.Errorf(soulbox.Forbidden, "%s belongs to another user", name),
			"run eval \"$(sudo soulbox env)\" once in this shell")
	case err != nil:
		return credentials{}, soulbox.Errorf(soulbox.Internal, "read the server's address: %w", err)
	}
	var c credentials
	if err := json.Unmarshal(b, &c); err != nil {
		return credentials{}, soulbox.Errorf(soulbox.Internal, "%s is not what a server writes: %w", name, err)
	}
	if u, err := url.Parse(c.APIURL); err != nil || u.Host == "" || c.APIKey == "" {
		return credentials{}, soulbox.Errorf(soulbox.Internal, "%s has no URL and key of a server", name)
	}
	return c, nil
}

// writeCredentials keeps c in the data folder, for the folder's owner only. A
// crash leaves the file as it was before or as it is after.
func writeCredentials(data string, c credentials) (err error) {
	b, err := json.MarshalIndent(c, "", "  ") //nolint:gosec // G117: keeping the key is what the file is for
	if err != nil {
		return fmt.Errorf("write the server's address: %w", err)
	}
	path := filepath.Join(data, credentialsFile)
	next := path + ".next" // always the same: a crash leaves one, and not one more each time
	defer func() {
		if err != nil {
			_ = os.Remove(next) // the error at hand is the one that matters
			err = fmt.Errorf("write the server's address: %w", err)
		}
	}()
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}
