// Package account answers as whom, and from where, a request to the agent acts:
// the accounts in /etc/passwd and /etc/group, the default user, working
// directory and environment that the host set, and what a path in a request
// means to a user.
package account

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// fallbackUser acts when neither the request nor the host names a user.
const fallbackUser = "user"

// User is one account.
type User struct {
	Name     string
	UID, GID uint32
	Groups   []uint32 // the primary one first
	Home     string
}

// Registry holds the accounts and the defaults. It is safe for concurrent use.
type Registry struct {
	book book

	mu      sync.RWMutex
	user    string            // +checklocks:mu
	workdir string            // +checklocks:mu
	system  map[string]string // +checklocks:mu
	envs    map[string]string // +checklocks:mu
}

// New returns a registry that reads the named files, in the formats of
// passwd(5) and group(5), whenever they have changed.
func New(passwd, group string) *Registry {
	return &Registry{
		book:   book{passwd: passwd, group: group},
		user:   fallbackUser,
		system: map[string]string{},
	}
}

// Lookup returns the user of that name; the empty name is the default user.
func (r *Registry) Lookup(name string) (*User, error) {
	if name == "" {
		r.mu.RLock()
		name = r.user
		r.mu.RUnlock()
	}
	names, err := r.book.read()
	if err != nil {
		return nil, err
	}
	u, ok := names.users[name]
	if !ok {
		return nil, fmt.Errorf("user: unknown user %s", name)
	}
	return u, nil
}

// Caller returns the user whom a call's Authorization header names, or the
// default user. Its error is a [connectjson.Error].
func (r *Registry) Caller(h http.Header) (*User, error) {
	req := http.Request{Header: h}
	name, _, named := req.BasicAuth()
	if named && name == "" {
		return nil, connectjson.Errorf(connectjson.Unauthenticated, "invalid username: ''")
	}
	u, err := r.Lookup(name)
	if err == nil {
		return u, nil
	}
	if !named {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return nil, connectjson.Errorf(connectjson.Unauthenticated, "invalid default user: '%s'", r.user)
	}
	return nil, connectjson.Errorf(connectjson.Unauthenticated, "invalid username: '%s'", name)
}

// Names returns the accounts as they are now, for a request that needs many of
// them. Accounts that cannot be read have no names.
func (r *Registry) Names() *Names {
	names, err := r.book.read()
	if err != nil {
		return &Names{}
	}
	return names
}

// Resolve turns a path of a request into a clean absolute one: empty is the
// default working directory, ~ is the user's home, and relative paths start at
// the home as well.
func (r *Registry) Resolve(u *User, path string) (string, error) {
	if path == "" {
		r.mu.RLock()
		path = r.workdir
		r.mu.RUnlock()
	}
	if strings.IndexByte(path, 0) >= 0 {
		return "", errors.New("path contains a NUL byte")
	}
	if path != "" && path[0] == '~' {
		if len(path) > 1 && path[1] != '/' {
			return "", fmt.Errorf("failed to expand path '%s' for user '%s': cannot expand user-specific home dir", path, u.Name)
		}
		path = u.Home + path[1:]
	}
	if !filepath.IsAbs(path) {
		path = u.Home + "/" + path
	}
	return filepath.Clean("/" + path), nil
}

// SetDefaults sets the default user and working directory; an empty one stays
// as it was.
func (r *Registry) SetDefaults(user, workdir string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if user != "" {
		r.user = user
	}
	if workdir != "" {
		r.workdir = workdir
	}
}

// SetSystem sets a variable that requests to replace the environment leave
// alone.
func (r *Registry) SetSystem(name, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.system[name] = value
}

// ReplaceEnvs replaces the default environment of every process to come.
func (r *Registry) ReplaceEnvs(envs map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.envs = maps.Clone(envs)
}

// Envs returns a copy of the default environment.
func (r *Registry) Envs() map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[string]string, len(r.envs)+len(r.system))
	maps.Copy(all, r.envs)
	maps.Copy(all, r.system)
	return all
}
