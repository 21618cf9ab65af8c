package native

import (
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// createRequest asks for a sandbox. Pointers tell what was left out.
type createRequest struct {
	Template  string            `json:"template"`
	Timeout   *int32            `json:"timeout"` // seconds
	Isolation *string           `json:"isolation"`
	Envs      map[string]string `json:"envs"`
	Metadata  map[string]string `json:"metadata"`
	Internet  *bool             `json:"internet"`
	Secure    *bool             `json:"secure"`
	Private   bool              `json:"private_ports"`
	Lifecycle *struct {
		OnTimeout string `json:"on_timeout"`
		FilesOnly bool   `json:"files_only"`
		Wake      bool   `json:"wake"`
	} `json:"lifecycle"`
}

// defaultTimeout is for how long a sandbox lives if nobody says otherwise.
const defaultTimeout = 5 * time.Minute

// createSandbox makes a sandbox. It is the only way to one of another isolation
// than its template's.
func (n *room) createSandbox(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body createRequest
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	req, err := body.toNoun()
	if err != nil {
		return err
	}
	req.Team = who.Team
	s, err := n.fleet.Create(r.Context(), req)
	if err != nil {
		return err
	}
	out := aloneOf(s)
	out.AccessToken, out.Domain = s.Token, n.domain
	return api.Answer(w, http.StatusCreated, out)
}

// toNoun returns what is asked for, or the first reason why it cannot be.
func (c *createRequest) toNoun() (soulbox.CreateRequest, error) {
	req := soulbox.CreateRequest{
		Timeout: defaultTimeout, Env: c.Envs, Metadata: c.Metadata,
		Network: soulbox.Network{Internet: c.Internet == nil || *c.Internet, Private: c.Private},
		Secure:  c.Secure == nil || *c.Secure,
	}
	if c.Template == "" {
		return req, soulbox.Errorf(soulbox.Invalid, "template is needed: the name or the id of one, or of a snapshot")
	}
	var err error
	if req.Template, err = soulbox.ParseTemplateRef(c.Template); err != nil {
		return req, err
	}
	if c.Isolation != nil {
		class, err := soulbox.ParseIsolation(*c.Isolation)
		if err != nil {
			return req, err
		}
		req.Isolation = &class
	}
	if c.Timeout != nil {
		if *c.Timeout < 1 {
			return req, soulbox.Errorf(soulbox.Invalid, "timeout must be at least 1 second, not %d", *c.Timeout)
		}
		req.Timeout = time.Duration(*c.Timeout) * time.Second
	}
	if l := c.Lifecycle; l != nil {
		switch l.OnTimeout {
		case "", "kill", "pause":
		default:
			return req, soulbox.Errorf(soulbox.Invalid, "lifecycle.on_timeout is kill or pause, not %.50q", l.OnTimeout)
		}
		req.Lifecycle = soulbox.Lifecycle{Pause: l.OnTimeout == "pause", FilesOnly: l.FilesOnly, Wake: l.Wake}
	}
	return req, nil
}
