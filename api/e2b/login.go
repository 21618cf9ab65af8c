package e2b

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api/e2b/ecr"
)

// registryRequest is who the client is at the registry of an image; which
// fields count depends on Type.
type registryRequest struct {
	Type string `json:"type"`

	Username *string `json:"username"` // registry
	Password *string `json:"password"`

	AWSAccessKeyID     *string `json:"awsAccessKeyId"` // aws
	AWSSecretAccessKey *string `json:"awsSecretAccessKey"`
	AWSRegion          *string `json:"awsRegion"`

	ServiceAccountJSON *string `json:"serviceAccountJson"` // gcp
}

// An access is how to log in at the registry of an image: by a login, or by the
// keys of an AWS account, that one has to be asked for.
type access struct {
	host  string // empty: nowhere
	login soulbox.Login
	keys  *ecr.Keys
}

const (
	maxSecret = 64 << 10    // bytes of a password or key file
	gcpUser   = "_json_key" // under which Google's registries take the JSON of a service account
	dockerHub = "docker.io" // what images without a host are at
	hubIndex  = "index." + dockerHub
	awsTime   = 15 * time.Second
)

// access returns how to log in. An SDK sends credentials along that were given
// for another base before: with a template they mean nothing.
func (b *triggerRequest) access() (access, error) {
	c := b.FromImageRegistry
	if c == nil || b.FromImage == nil || *b.FromImage == "" {
		return access{}, nil
	}
	var a access
	var err error
	switch c.Type {
	case "registry":
		a.login, err = c.basic()
	case "gcp":
		a.login, err = c.gcp()
	case "aws":
		a.keys, err = c.aws()
	default:
		err = soulbox.Errorf(soulbox.Invalid, "type must be registry, aws or gcp, not %.50q", c.Type)
	}
	if err != nil {
		return access{}, soulbox.Errorf(soulbox.Invalid, "fromImageRegistry: %w", err)
	}
	// What cannot be read fails the build, with or without credentials.
	if ref, err := name.ParseReference(strings.TrimSpace(*b.FromImage)); err == nil {
		if a.host = ref.Context().RegistryStr(); a.host == hubIndex {
			a.host = dockerHub
		}
	}
	return a, nil
}

func (c *registryRequest) basic() (soulbox.Login, error) {
	user, err := secretOf("username", c.Username)
	if err != nil {
		return soulbox.Login{}, err
	}
	password, err := secretOf("password", c.Password)
	if err == nil && strings.Contains(user, ":") {
		err = soulbox.Errorf(soulbox.Invalid, "username must not hold a colon")
	}
	return soulbox.Login{User: user, Password: password}, err
}

func (c *registryRequest) gcp() (soulbox.Login, error) {
	account, err := secretOf("serviceAccountJson", c.ServiceAccountJSON)
	if err != nil {
		return soulbox.Login{}, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(account), &object); err != nil || object == nil {
		return soulbox.Login{}, soulbox.Errorf(soulbox.Invalid, "serviceAccountJson must be a JSON object as Google gives it out for a service account")
	}
	return soulbox.Login{User: gcpUser, Password: account}, nil
}

func (c *registryRequest) aws() (*ecr.Keys, error) {
	var keys ecr.Keys
	for _, f := range []struct {
		name     string
		from, to *string
	}{
		{"awsAccessKeyId", c.AWSAccessKeyID, &keys.ID},
		{"awsSecretAccessKey", c.AWSSecretAccessKey, &keys.Secret},
		{"awsRegion", c.AWSRegion, &keys.Region},
	} {
		var err error
		if *f.to, err = secretOf(f.name, f.from); err != nil {
			return nil, err
		}
	}
	return &keys, keys.Check()
}

func secretOf(field string, s *string) (string, error) {
	switch {
	case s == nil || *s == "":
		return "", soulbox.Errorf(soulbox.Invalid, "%s is needed", field)
	case len(*s) > maxSecret:
		return "", soulbox.Errorf(soulbox.Invalid, "%s must not be longer than %d KiB", field, maxSecret>>10)
	case strings.ContainsRune(*s, 0):
		return "", soulbox.Errorf(soulbox.Invalid, "%s must not hold NUL", field)
	}
	return *s, nil
}

// logIn returns the logins for a build. When AWS gives none the error is a
// [*soulbox.BuildFailure], so that the client learns at which line of its
// program the keys stand.
func (e *room) logIn(r *http.Request, who soulbox.Actor, id soulbox.TemplateID, build soulbox.BuildID, a access) (map[string]soulbox.Login, error) {
	if a.host == "" {
		return nil, nil
	}
	if a.keys != nil {
		// AWS is asked only for those who can go on from there.
		b, err := e.templates.Build(r.Context(), who.Team, id, build)
		if err != nil {
			return nil, err
		}
		if b.Team != who.Team || !isDraft(b) {
			return nil, soulbox.Errorf(soulbox.Invalid, "build %s is not waiting for its recipe", build)
		}
		if a.login, err = ecr.Login(r.Context(), e.aws, *a.keys); err != nil {
			return nil, &soulbox.BuildFailure{Message: soulbox.MessageOf(err)}
		}
	}
	return map[string]soulbox.Login{a.host: a.login}, nil
}

// isFailure returns the failure that err is.
func isFailure(err error) (soulbox.BuildFailure, bool) {
	if f, ok := errors.AsType[*soulbox.BuildFailure](err); ok {
		return *f, true
	}
	return soulbox.BuildFailure{}, false
}

// newAWSClient returns a client for requests that carry a signature: those
// follow nobody who sends them elsewhere.
func newAWSClient() *http.Client {
	return &http.Client{
		Timeout:       awsTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
