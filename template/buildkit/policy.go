package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"

	"github.com/soulbox/soulbox"
)

// BuildKit asks of each source that a build has whether it may. That answers a
// question which its cache does not ask: an image that is named by its digest
// is taken from there without its registry, and so by teams that the registry
// would not give it to.

// policy answers for one build.
func (e *Engine) policy(b *running, d *daemon) *policysession.PolicyProvider {
	return policysession.NewPolicyProvider(func(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gatewaypb.ResolveSourceMetaRequest, error) {
		err := e.allow(ctx, b, d.egress, req.GetSource().GetSource().GetIdentifier())
		if err == nil {
			return &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}, nil, nil
		}
		b.blame(err)
		why := &policysession.DenyMessage{Message: soulbox.MessageOf(err)}
		return &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{why}}, nil, nil
	})
}

// allow returns an error if a build may not have a source.
func (e *Engine) allow(ctx context.Context, b *running, out *egress, id string) error {
	scheme, ref, _ := strings.Cut(id, "://")
	switch scheme {
	case "local", "oci-layout": // what the build has brought
		return nil
	case "http", "https", "git":
		if !b.job.Limits.Internet {
			return soulbox.Errorf(soulbox.Forbidden, "this build has no internet")
		}
		return nil
	case "docker-image":
		return e.allowImage(ctx, b, out, ref)
	}
	return soulbox.Errorf(soulbox.Forbidden, "%.200q cannot be had here", id)
}

const maxAllowed = 10_000 // images, of all teams

// allowImage asks the registry for the manifest of an image that is named by
// its digest, as the build's team. What a team was given once it may have again.
func (e *Engine) allowImage(ctx context.Context, b *running, out *egress, ref string) error {
	image, err := name.NewDigest(ref)
	if err != nil { // a tag, which BuildKit looks up as the team before anything else
		return nil
	}
	key := b.job.scope() + " " + image.Name()
	e.mu.Lock()
	known := e.allowed[key]
	e.mu.Unlock()
	if known {
		return nil
	}
	for _, h := range e.network.sources(image.Context().RegistryStr()) {
		if err = h.head(ctx, b.job, out, image); err == nil {
			break
		}
	}
	if err != nil {
		return soulbox.Hide(soulbox.Forbidden, err, fmt.Sprintf("%s cannot be had: %s", image.Name(), whyNot(err)))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.allowed) >= maxAllowed {
		clear(e.allowed)
	}
	e.allowed[key] = true
	return nil
}

// sources returns where an image of a registry is looked for, in this order.
func (n *network) sources(registry string) []host {
	asked := registryAddr(registry)
	own := host{addr: registry}
	for _, h := range n.hosts {
		if registryAddr(h.addr) == asked {
			own.plain = h.plain
		}
	}
	own.plain = own.plain || own.loopback()
	var all []host
	for name, mirrors := range n.mirrors {
		if registryAddr(name) == asked {
			all = append(all, mirrors...)
		}
	}
	return append(all, own)
}

// head asks h for the manifest of an image.
func (h host) head(ctx context.Context, j *Job, out *egress, image name.Digest) error {
	var how []name.Option
	if h.plain {
		how = append(how, name.Insecure)
	}
	repository := strings.TrimPrefix(h.path+"/"+image.Context().RepositoryStr(), "/")
	there, err := name.NewDigest(h.addr+"/"+repository+"@"+image.DigestStr(), how...)
	if err != nil {
		return err
	}
	who := authn.Anonymous
	if l, ok := j.login(h.addr); ok {
		who = authn.FromConfig(authn.AuthConfig{Username: l.User, Password: l.Password})
	}
	_, err = remote.Head(there, remote.WithContext(ctx), remote.WithAuth(who), remote.WithTransport(out.transport()))
	return err
}

// whyNot returns what a registry said, for people.
func whyNot(err error) string {
	if t, ok := errors.AsType[*transport.Error](err); ok {
		return fmt.Sprintf("the registry answers %d %s", t.StatusCode, http.StatusText(t.StatusCode))
	}
	return "the registry does not answer"
}
