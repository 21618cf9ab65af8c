package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// listPage is how many sandboxes are asked for at a time.
const listPage = 500

// DefaultTemplate is what a sandbox is made of unless one says otherwise.
const DefaultTemplate = "base"

// Sandboxes starts, finds, pauses and ends sandboxes, and keeps snapshots of
// them.
type Sandboxes struct{ c *Client }

// CreateOptions describe a new sandbox. The zero value is a sandbox of the
// default template with the server's default lifetime and internet access.
type CreateOptions struct {
	// Template is the name or id of a template, or of a snapshot. Empty:
	// [DefaultTemplate].
	Template string
	// Timeout is how long the sandbox lives; it is sent in whole seconds. 0:
	// the server's default, five minutes.
	Timeout time.Duration
	// Env is set for every program in the sandbox.
	Env map[string]string
	// Metadata is the caller's own, for finding the sandbox again.
	Metadata map[string]string
	// NoInternet closes the way out.
	NoInternet bool
	// PrivatePorts closes the ports of its programs to requests without its
	// traffic token. [Sandbox.Transport] sends that.
	PrivatePorts bool
	// Lifecycle says what becomes of it when its time is up. The zero value:
	// it ends.
	Lifecycle soulbox.Lifecycle
	// Isolation is what stands between it and the server's machine. Nil: what
	// the template says.
	Isolation *soulbox.Isolation
}

// An Info is what the server tells about a sandbox.
type Info struct {
	ID         string
	TemplateID string
	Template   string // the name it was made with; empty if it was an id
	State      soulbox.State
	StartedAt  time.Time
	ExpiresAt  time.Time // when the server will end or pause it; of no meaning while it is paused
	CPUs       int
	Memory     soulbox.Bytes
	Disk       soulbox.Bytes
	Internet   bool
	Isolation  soulbox.Isolation
	Metadata   map[string]string
	End        *soulbox.End // nil while it lives

	PrivatePorts bool
	TrafficToken string // what opens them; empty in a list
}

// ListOptions select sandboxes. The zero value selects the live ones.
type ListOptions struct {
	// Ended includes those that have ended, with how they did.
	Ended bool
	// Metadata selects those that have all of these.
	Metadata map[string]string
}

// Create starts a sandbox and returns when programs can run in it.
func (s *Sandboxes) Create(ctx context.Context, o CreateOptions) (*Sandbox, error) {
	if o.Template == "" {
		o.Template = DefaultTemplate
	}
	in := createWire{
		Template: o.Template,
		Timeout:  seconds(o.Timeout),
		Env:      o.Env,
		Metadata: o.Metadata,
		Private:  o.PrivatePorts,
	}
	if o.Isolation != nil {
		in.Isolation = o.Isolation.String()
	}
	if o.NoInternet {
		in.Internet = new(false)
	}
	if l := o.Lifecycle; l != (soulbox.Lifecycle{}) {
		in.Lifecycle = &lifecycleWire{FilesOnly: l.FilesOnly, Wake: l.Wake}
		if l.Pause {
			in.Lifecycle.OnTimeout = "pause"
		}
	}
	var out createdWire
	if err := s.c.call(ctx, http.MethodPost, "/v1/sandboxes", nil, in, &out); err != nil {
		return nil, err
	}
	return s.c.handle(sandboxWire{SandboxID: out.ID, Token: out.Token, Traffic: out.Traffic, Domain: out.Domain}), nil
}

// Connect returns a handle on a sandbox and makes it live at least for another
// timeout; one that is paused is resumed, see [Sandboxes.Resume]. With timeout
// 0 it only returns the handle, on whatever state the sandbox is in.
func (s *Sandboxes) Connect(ctx context.Context, id string, timeout time.Duration) (*Sandbox, error) {
	if timeout != 0 {
		return s.Resume(ctx, id, ResumeOptions{Timeout: timeout})
	}
	path, err := sandboxPath("/sandboxes/", id, "")
	if err != nil {
		return nil, err
	}
	var out sandboxWire
	if err := s.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	return s.c.handle(out), nil
}

// Get tells about one sandbox, also if it has ended.
func (s *Sandboxes) Get(ctx context.Context, id string) (*Info, error) {
	path, err := sandboxPath("/v1/sandboxes/", id, "")
	if err != nil {
		return nil, err
	}
	var out infoWire
	if err := s.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	return out.info(), nil
}

// List returns the sandboxes that o selects, the newest first, and asks for
// more pages as the loop goes on. The first error ends it.
func (s *Sandboxes) List(ctx context.Context, o ListOptions) iter.Seq2[*Info, error] {
	return func(yield func(*Info, error) bool) {
		query := url.Values{"limit": {strconv.Itoa(listPage)}}
		if o.Ended {
			query.Set("ended", "true")
		}
		for w, err := range pages[infoWire, listWire](ctx, s.c, "/v1/sandboxes", query) {
			if err != nil {
				yield(nil, err)
				return
			}
			if o.selects(w.Metadata) && !yield(w.info(), nil) {
				return
			}
		}
	}
}

// selects reports whether a sandbox with this metadata is wanted. The server's
// native list has no such filter, and E2B's none for those that have ended.
func (o ListOptions) selects(metadata map[string]string) bool {
	for k, v := range o.Metadata {
		if got, ok := metadata[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// SetTimeout makes a sandbox live for timeout from now, longer or shorter than
// it would have.
func (s *Sandboxes) SetTimeout(ctx context.Context, id string, timeout time.Duration) error {
	path, err := sandboxPath("/sandboxes/", id, "/timeout")
	if err != nil {
		return err
	}
	err = s.c.call(ctx, http.MethodPost, path, nil, timeoutWire{Timeout: seconds(timeout)}, nil)
	return err
}

// Extend makes a sandbox that runs live at least for d from now, never shorter
// than it would have; it is sent in whole seconds, at most an hour. Unlike
// Connect it does not resume a paused one.
func (s *Sandboxes) Extend(ctx context.Context, id string, d time.Duration) error {
	path, err := sandboxPath("/sandboxes/", id, "/refreshes")
	if err != nil {
		return err
	}
	err = s.c.call(ctx, http.MethodPost, path, nil, durationWire{Duration: seconds(d)}, nil)
	return err
}

// Kill ends a sandbox, also one that is paused. One that does not exist, or no longer does, is a
// NotFound error.
func (s *Sandboxes) Kill(ctx context.Context, id string) error {
	path, err := sandboxPath("/sandboxes/", id, "")
	if err != nil {
		return err
	}
	err = s.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
	return err
}

// sandboxPath puts an id into a path, after checking that it is one.
func sandboxPath(before, id, after string) (string, error) {
	if !soulbox.SandboxID(id).Valid() {
		return "", soulbox.Errorf(soulbox.Invalid, "%.80q is not a sandbox id, which has only a-z and 0-9", id)
	}
	return before + id + after, nil
}

// seconds rounds up, so that a short timeout is not none at all.
func seconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}

type createWire struct {
	Template  string            `json:"template"`
	Timeout   int               `json:"timeout,omitempty"`
	Isolation string            `json:"isolation,omitempty"`
	Env       map[string]string `json:"envs,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Internet  *bool             `json:"internet,omitempty"` // absent means true
	Private   bool              `json:"private_ports,omitempty"`
	Lifecycle *lifecycleWire    `json:"lifecycle,omitempty"`
}

type lifecycleWire struct {
	OnTimeout string `json:"on_timeout,omitempty"`
	FilesOnly bool   `json:"files_only,omitempty"`
	Wake      bool   `json:"wake,omitempty"`
}

// createdWire is what create answers.
type createdWire struct {
	ID      string `json:"id"`
	Token   string `json:"access_token"`
	Traffic string `json:"traffic_token"`
	Domain  string `json:"domain"`
}

type timeoutWire struct {
	Timeout int `json:"timeout"`
}

type durationWire struct {
	Duration int `json:"duration"`
}

// sandboxWire is what connect and fork answer.
type sandboxWire struct {
	SandboxID string `json:"sandboxID"`
	Token     string `json:"envdAccessToken"`
	Traffic   string `json:"trafficAccessToken"`
	Domain    string `json:"domain"`
}

// listWire is a page of the native list.
type listWire struct {
	Sandboxes []infoWire `json:"sandboxes"`
	Next      string     `json:"next"`
}

func (w listWire) page() (items []infoWire, next string) { return w.Sandboxes, w.Next }

// infoWire is a sandbox of the native API.
type infoWire struct {
	ID         string            `json:"id"`
	TemplateID string            `json:"template"`
	Alias      string            `json:"alias"`
	State      soulbox.State     `json:"state"`
	StartedAt  time.Time         `json:"started_at"`
	ExpiresAt  time.Time         `json:"expires_at"`
	CPUs       int               `json:"cpus"`
	MemoryMiB  int64             `json:"memory_mib"`
	DiskMiB    int64             `json:"disk_mib"`
	Internet   bool              `json:"internet"`
	Private    bool              `json:"private_ports"`
	Traffic    string            `json:"traffic_token"`
	Isolation  string            `json:"isolation"`
	Metadata   map[string]string `json:"metadata"`
	EndedAt    *time.Time        `json:"ended_at"`
	EndedBy    string            `json:"ended_by"`
	Reason     string            `json:"reason"`
}

func (w infoWire) info() *Info {
	i := &Info{
		ID:         w.ID,
		TemplateID: w.TemplateID,
		Template:   w.Alias,
		State:      w.State,
		StartedAt:  w.StartedAt,
		ExpiresAt:  w.ExpiresAt,
		CPUs:       w.CPUs,
		Memory:     soulbox.Bytes(w.MemoryMiB) * soulbox.MiB,
		Disk:       soulbox.Bytes(w.DiskMiB) * soulbox.MiB,
		Internet:   w.Internet,
		Isolation:  isolation(w.Isolation),
		Metadata:   w.Metadata,

		PrivatePorts: w.Private,
		TrafficToken: w.Traffic,
	}
	if w.EndedAt != nil {
		i.End = &soulbox.End{At: *w.EndedAt, By: soulbox.Ender(w.EndedBy), Reason: w.Reason}
	}
	return i
}

// isolation reads a class as the server spells it, also one that is newer than
// this package.
func isolation(s string) soulbox.Isolation {
	if s == soulbox.GVisor.String() {
		return soulbox.GVisor
	}
	return soulbox.Isolation(s)
}

// handle turns the answer of create or connect into a handle.
func (c *Client) handle(w sandboxWire) *Sandbox {
	s := &Sandbox{ID: w.SandboxID, c: c, token: w.Token, traffic: w.Traffic, domain: w.Domain, public: w.Domain != ""}
	if s.domain == "" {
		s.domain = hostOf(c.data)
	}
	return s
}

func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return "" // New has parsed it before
	}
	if u.Port() == "" {
		return u.Hostname()
	}
	return u.Hostname() + ":" + u.Port()
}

// unix writes a time as a query parameter.
func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
