package buildkit

import (
	"context"
	"strings"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	"github.com/soulbox/soulbox"
)

// keychain tells BuildKit who we are at registries. It does not fetch tokens,
// as other clients do: where these are fetched is the registry's to say, and
// from BuildKit the way leads through our proxy.
type keychain struct {
	auth.UnimplementedAuthServer

	job *Job
}

// Register is how a session asks to be extended.
func (k keychain) Register(s *grpc.Server) { auth.RegisterAuthServer(s, k) }

// Credentials answers for a registry, by the address that is asked.
func (k keychain) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	login, _ := k.job.login(req.GetHost())
	return &auth.CredentialsResponse{Username: login.User, Secret: login.Password}, nil
}

// login returns who the job is at a registry.
func (j *Job) login(registry string) (soulbox.Login, bool) {
	for name, login := range j.Credentials {
		if registryAddr(name) == registryAddr(registry) {
			return login, true
		}
	}
	return soulbox.Login{}, false
}

// registryAddr returns the one name of a registry that has several.
func registryAddr(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(name), "https://"), "http://")
	name, _, _ = strings.Cut(name, "/")
	name = strings.TrimSuffix(name, ":443")
	switch name {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "":
		return "docker.io"
	}
	return name
}
