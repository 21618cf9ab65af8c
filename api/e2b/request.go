package e2b

import (
	"fmt"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	defaultTimeoutV1 = 15 * time.Second
	defaultTimeoutV2 = 300 * time.Second
	noDefault        = time.Duration(-1) // the timeout must be given

	maxMap = 64 << 10 // bytes of all keys and values of metadata, or of envVars
)

// createRequest is the body of both creates. Pointers tell what was left out.
type createRequest struct {
	TemplateID          string             `json:"templateID"`
	Timeout             *int32             `json:"timeout"` // seconds
	Secure              *bool              `json:"secure"`  // v1 only; v2 always is
	AllowInternetAccess *bool              `json:"allow_internet_access"`
	Network             *networkRequest    `json:"network"`
	Metadata            map[string]*string `json:"metadata"`
	EnvVars             map[string]*string `json:"envVars"`

	AutoPause       *bool `json:"autoPause"`
	AutoPauseMemory *bool `json:"autoPauseMemory"`
	AutoResume      *struct {
		Enabled bool `json:"enabled"`
	} `json:"autoResume"`
	MCP map[string]any `json:"mcp"`
	IAM *struct {
		Tokens map[string]any `json:"tokens"`
	} `json:"iam"`
	VolumeMounts []any `json:"volumeMounts"`
}

// toNoun returns what is asked for, or the first reason why it cannot be.
func (c *createRequest) toNoun(v2 bool) (soulbox.CreateRequest, error) {
	var req soulbox.CreateRequest
	if c.TemplateID == "" {
		return req, soulbox.Errorf(soulbox.Invalid, "templateID is needed")
	}
	var err error
	if req.Template, err = soulbox.ParseTemplateRef(c.TemplateID); err != nil {
		return req, err
	}
	if err := c.refuse(v2); err != nil {
		return req, err
	}
	if req.Lifecycle, err = c.lifecycle(); err != nil {
		return req, err
	}
	if req.Network, err = network(c.AllowInternetAccess, c.Network); err != nil {
		return req, err
	}
	otherwise := defaultTimeoutV1
	if v2 {
		otherwise = defaultTimeoutV2
	}
	if req.Timeout, err = lifetime(c.Timeout, otherwise); err != nil {
		return req, err
	}
	req.Secure = v2 || c.Secure != nil && *c.Secure
	if req.Network.Private && !req.Secure {
		return req, soulbox.Errorf(soulbox.Invalid, "network.allowPublicTraffic may be false only where secure is true")
	}
	if req.Metadata, err = pairs("metadata", c.Metadata, ""); err != nil {
		return req, err
	}
	req.Env, err = pairs("envVars", c.EnvVars, "=")
	return req, err
}

// lifecycle returns what becomes of the sandbox when its time is up, and of
// traffic after that. autoResume without autoPause makes sense: it counts once
// somebody has paused the sandbox.
func (c *createRequest) lifecycle() (soulbox.Lifecycle, error) {
	l := soulbox.Lifecycle{
		Pause:     c.AutoPause != nil && *c.AutoPause,
		FilesOnly: c.AutoPauseMemory != nil && !*c.AutoPauseMemory,
		Wake:      c.AutoResume != nil && c.AutoResume.Enabled,
	}
	switch {
	case l.FilesOnly && !l.Pause:
		return l, soulbox.Errorf(soulbox.Invalid, "autoPauseMemory may be false only where autoPause is true")
	case l.FilesOnly && l.Wake:
		return l, soulbox.Errorf(soulbox.Invalid, "autoResume and autoPauseMemory=false exclude each other: "+
			"traffic does not resume a sandbox that was paused without its memory; connect does")
	}
	return l, nil
}

// lifetime returns for how long a new sandbox may live.
func lifetime(n *int32, otherwise time.Duration) (time.Duration, error) {
	switch {
	case n == nil:
		return otherwise, nil
	case *n < 1:
		return 0, soulbox.Errorf(soulbox.Invalid, "timeout must be at least 1 second, not %d", *n)
	}
	return time.Duration(*n) * time.Second, nil
}

// refuse returns the first option that this version cannot honour.
func (c *createRequest) refuse(v2 bool) error {
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	switch {
	case v2 && is(c.Secure, false):
		return soulbox.Errorf(soulbox.Invalid, "secure: sandboxes made through /v2 are always secured")
	case len(c.MCP) > 0:
		return notYet("mcp: a gateway to MCP servers")
	case c.IAM != nil && len(c.IAM.Tokens) > 0:
		return notYet("iam: identity tokens for a sandbox")
	case len(c.VolumeMounts) > 0:
		return notYet("volumeMounts: mounting a volume")
	}
	return nil
}

// networkRequest is the network of a create, and with AllowInternetAccess the
// body of a network update.
type networkRequest struct {
	AllowOut           []string       `json:"allowOut"`
	DenyOut            []string       `json:"denyOut"`
	DNSServers         []string       `json:"dnsServers"`
	EgressProxy        map[string]any `json:"egressProxy"`
	Rules              map[string]any `json:"rules"`
	AllowPublicTraffic *bool          `json:"allowPublicTraffic"`
	MaskRequestHost    string         `json:"maskRequestHost"`
	HTTPSPorts         []any          `json:"httpsPorts"`
}

type networkUpdate struct {
	networkRequest

	AllowInternetAccess *bool `json:"allow_internet_access"`
}

// allTraffic is how E2B's clients write every address.
const allTraffic = "0.0.0.0/0"

// network returns what a sandbox may reach, and who reaches it. Both ways to say
// the former, the switch and the lists, come down to on or off; lists that say
// more are refused.
func network(access *bool, n *networkRequest) (soulbox.Network, error) {
	off := access != nil && !*access
	if n == nil {
		return soulbox.Network{Internet: !off}, nil
	}
	switch {
	case !onlyAll(n.AllowOut):
		return soulbox.Network{}, notYet("network.allowOut: allowing single addresses or domains (other than " + allTraffic + ")")
	case !onlyAll(n.DenyOut):
		return soulbox.Network{}, notYet("network.denyOut: denying single addresses (other than " + allTraffic + ")")
	case len(n.DNSServers) > 0:
		return soulbox.Network{}, notYet("network.dnsServers: choosing DNS servers")
	case len(n.EgressProxy) > 0:
		return soulbox.Network{}, notYet("network.egressProxy: a proxy for outgoing traffic")
	case len(n.Rules) > 0:
		return soulbox.Network{}, notYet("network.rules: changing outgoing requests")
	case n.MaskRequestHost != "":
		return soulbox.Network{}, notYet("network.maskRequestHost: another host name for incoming requests")
	case len(n.HTTPSPorts) > 0:
		return soulbox.Network{}, notYet("network.httpsPorts: ports that speak TLS themselves")
	}
	off = off || len(n.DenyOut) > 0
	if off && len(n.AllowOut) > 0 {
		// E2B lets allow win over deny; here that would open what the same
		// request closes, so nobody should have to know.
		return soulbox.Network{}, soulbox.Errorf(soulbox.Invalid, "network: %s is both allowed and denied", allTraffic)
	}
	return soulbox.Network{Internet: !off, Private: n.AllowPublicTraffic != nil && !*n.AllowPublicTraffic}, nil
}

// onlyAll reports whether list is empty or says just everything.
func onlyAll(list []string) bool {
	for _, s := range list {
		if s != allTraffic {
			return false
		}
	}
	return true
}

// pairs checks the keys and values of a map that clients fill as they like.
// Bytes of forbidden must not be in a key.
func pairs(field string, in map[string]*string, forbidden string) (map[string]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	size := 0
	out := make(map[string]string, len(in))
	for k, v := range in {
		switch {
		case k == "":
			return nil, soulbox.Errorf(soulbox.Invalid, "%s: a key must not be empty", field)
		case v == nil:
			return nil, soulbox.Errorf(soulbox.Invalid, "%s: the value of %.100q must be a string, not null", field, k)
		case strings.ContainsAny(k, forbidden+"\x00"):
			return nil, soulbox.Errorf(soulbox.Invalid, "%s: the key %.100q must not hold %s", field, k, spell(forbidden))
		case strings.ContainsRune(*v, 0):
			return nil, soulbox.Errorf(soulbox.Invalid, "%s: the value of %.100q must not hold NUL", field, k)
		}
		if size += len(k) + len(*v); size > maxMap {
			return nil, soulbox.Errorf(soulbox.Invalid, "%s must not be larger than %d KiB in all", field, maxMap>>10)
		}
		out[k] = *v
	}
	return out, nil
}

func spell(forbidden string) string {
	if forbidden == "" {
		return "NUL"
	}
	return fmt.Sprintf("%q or NUL", forbidden)
}

// connectRequest is the body of both connects, and most of a resume's.
type connectRequest struct {
	Timeout *int32 `json:"timeout"` // seconds; connect v1 must have it
	Memory  *bool  `json:"memory"`  // false: boot with the files of the pause
}

// toNoun returns how long from now the sandbox shall live at least.
func (c *connectRequest) toNoun(otherwise time.Duration) (time.Duration, error) {
	if c.Timeout == nil && otherwise != noDefault {
		return otherwise, nil
	}
	return seconds("timeout", c.Timeout)
}

// cold reports whether the memory of the pause is not wanted.
func (c *connectRequest) cold() bool { return c.Memory != nil && !*c.Memory }

// seconds returns a duration that must be given and may be zero.
func seconds(field string, n *int32) (time.Duration, error) {
	switch {
	case n == nil:
		return 0, soulbox.Errorf(soulbox.Invalid, "%s is needed: a number of seconds", field)
	case *n < 0:
		return 0, soulbox.Errorf(soulbox.Invalid, "%s must not be negative", field)
	}
	return time.Duration(*n) * time.Second, nil
}

// parseSandboxID reads an id from outside, which may carry the -<clientID>
// that old clients append to it.
func parseSandboxID(s string) (soulbox.SandboxID, error) {
	short, _, _ := strings.Cut(s, "-")
	id := soulbox.SandboxID(short)
	if !id.Valid() || strings.Count(s, "-") > 1 {
		return "", soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a sandbox: those hold a-z and 0-9", s)
	}
	return id, nil
}
