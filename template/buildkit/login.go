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

	logins map[string]soulbox.Login
}

// Register is how a session asks to be extended.
func (k keychain) Register(s *grpc.Server) { auth.RegisterAuthServer(s, k) }

// Credentials answers for a registry, by the address that is dialled.
func (k keychain) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	for name, login := range k.logins {
		if registryAddr(name) == registryAddr(req.GetHost()) {
			return &auth.CredentialsResponse{Username: login.User, Secret: login.Password}, nil
		}
	}
	return &auth.CredentialsResponse{}, nil
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
