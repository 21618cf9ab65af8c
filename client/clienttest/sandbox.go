package clienttest

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

// A box is a sandbox of the stand-in.
type box struct {
	id        string
	template  string
	started   time.Time
	timeout   time.Duration // as asked for when it was made
	env       map[string]string
	metadata  map[string]string
	internet  bool
	private   bool
	isolation string
	lifecycle soulbox.Lifecycle
	agent     *agent

	from string // the checkpoint that it comes from; the server's mu guards it

	mu      sync.Mutex
	paused  bool         // +checklocks:mu
	expires time.Time    // +checklocks:mu
	over    *soulbox.End // +checklocks:mu
}

func (b *box) token() string { return "token-of-" + b.id }

// traffic is what opens its ports; empty: they are open.
func (b *box) traffic() string {
	if !b.private {
		return ""
	}
	return "traffic-of-" + b.id
}

func (b *box) ended() *soulbox.End {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over
}

// finish records an end.
func (b *box) finish(by soulbox.Ender, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over == nil {
		b.over = &soulbox.End{At: time.Now(), By: by, Reason: reason}
	}
}

func (b *box) end(by soulbox.Ender, reason string) {
	b.finish(by, reason)
	b.agent.killAll()
}

type boxWire struct {
	ID         string            `json:"id"`
	TemplateID string            `json:"template"`
	Alias      string            `json:"alias"`
	State      soulbox.State     `json:"state"`
	StartedAt  time.Time         `json:"started_at"`
	ExpiresAt  time.Time         `json:"expires_at"`
	CPUs       int               `json:"cpus"`
	MemoryMiB  int               `json:"memory_mib"`
	DiskMiB    int               `json:"disk_mib"`
	Internet   bool              `json:"internet"`
	Private    bool              `json:"private_ports"`
	Traffic    string            `json:"traffic_token,omitempty"`
	Isolation  string            `json:"isolation"`
	Metadata   map[string]string `json:"metadata"`
	EndedAt    *time.Time        `json:"ended_at,omitempty"`
	EndedBy    soulbox.Ender     `json:"ended_by,omitempty"`
	Reason     string            `json:"reason,omitempty"`

	AccessToken string `json:"access_token,omitempty"` // for who made it
}

func (b *box) wire() boxWire {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := boxWire{
		ID: b.id, TemplateID: "t" + b.template, Alias: b.template, State: soulbox.Running,
		StartedAt: b.started, ExpiresAt: b.expires, CPUs: 2, MemoryMiB: 512, DiskMiB: 1024,
		Internet: b.internet, Private: b.private, Traffic: b.traffic(), Isolation: b.isolation, Metadata: b.metadata,
	}
	if b.paused {
		w.State = soulbox.Paused
	}
	if b.over != nil {
		w.State, w.EndedAt, w.EndedBy, w.Reason = soulbox.Ended, &b.over.At, b.over.By, b.over.Reason
	}
	return w
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Template  string            `json:"template"`
		Timeout   *int              `json:"timeout"`
		Isolation string            `json:"isolation"`
		Envs      map[string]string `json:"envs"`
		Metadata  map[string]string `json:"metadata"`
		Internet  *bool             `json:"internet"`
		Private   bool              `json:"private_ports"`
		Lifecycle struct {
			OnTimeout string `json:"on_timeout"`
			FilesOnly bool   `json:"files_only"`
			Wake      bool   `json:"wake"`
		} `json:"lifecycle"`
	}
	if !decode(w, r, &in) || in.Isolation != "" && !knownClass(w, in.Isolation) {
		return
	}
	made := &box{
		template: in.Template, timeout: lifetime(in.Timeout), env: in.Envs, metadata: in.Metadata,
		internet:  in.Internet == nil || *in.Internet,
		private:   in.Private,
		lifecycle: soulbox.Lifecycle{Pause: in.Lifecycle.OnTimeout == "pause", FilesOnly: in.Lifecycle.FilesOnly, Wake: in.Lifecycle.Wake},
	}
	if life := made.lifecycle; !life.Pause && (life.FilesOnly || life.Wake) {
		refuse(w, http.StatusBadRequest, "files_only and wake go with on_timeout pause")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	home := s.home
	if snap := named(s.taken(soulbox.ForCreate, nil), in.Template); snap != nil {
		var err error
		if home, err = s.folder(snap.dir); err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		made.template = snap.template
		if made.env == nil {
			made.env = snap.env
		}
	} else if _, ok := s.templates[in.Template]; !ok {
		refuse(w, http.StatusNotFound, "template '"+in.Template+"' not found")
		return
	}
	made.isolation = cmp.Or(in.Isolation, s.templates[made.template].Isolation, soulbox.GVisor.String())
	out := s.add(made, home).wire()
	out.AccessToken = made.token()
	answer(w, http.StatusCreated, out)
}

// add starts a sandbox that is like made, in the folder home.
//
// +checklocks:s.mu
func (s *Server) add(b *box, home string) *box {
	b.id, b.started = string(soulbox.NewSandboxID()), time.Now()
	b.resume(b.timeout)
	b.agent = newAgent(home, b.env)
	s.boxes[b.id] = b
	return b
}

func handleOf(b *box) map[string]any {
	return map[string]any{
		"sandboxID": b.id, "templateID": "t" + b.template, "clientID": "test", "envdVersion": "0.6.13", "envdAccessToken": b.token(),
		"trafficAccessToken": b.traffic(),
	}
}

// find returns a live sandbox, or answers that there is none.
func (s *Server) find(w http.ResponseWriter, r *http.Request) *box {
	s.mu.Lock()
	b := s.boxes[r.PathValue("id")]
	s.mu.Unlock()
	if b == nil || b.ended() != nil {
		sandboxMissing(w, r.PathValue("id"))
		return nil
	}
	return b
}

// handle answers with what a client needs for reaching a sandbox.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if b := s.find(w, r); b != nil {
		answer(w, http.StatusOK, handleOf(b))
	}
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	if b := s.find(w, r); b != nil {
		b.end(soulbox.ByClient, "killed through the API")
		s.mu.Lock()
		s.snapshots = slices.DeleteFunc(s.snapshots, func(snap *snapshot) bool { return snap.Kind == soulbox.ForRollback && snap.Sandbox == b.id })
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) timeout(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Timeout int `json:"timeout"`
	}
	b := s.find(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	b.mu.Lock()
	b.expires = time.Now().Add(time.Duration(in.Timeout) * time.Second)
	b.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []boxWire{}
	for _, b := range s.boxes {
		wire := b.wire()
		wire.Traffic = ""
		if wire.EndedAt == nil || r.URL.Query().Get("ended") == "true" {
			all = append(all, wire)
		}
	}
	slices.SortFunc(all, func(a, b boxWire) int { return b.StartedAt.Compare(a.StartedAt) })
	all, next := page(r, all)
	answer(w, http.StatusOK, map[string]any{"sandboxes": all, "next": next})
}

func (s *Server) info(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	b := s.boxes[r.PathValue("id")]
	s.mu.Unlock()
	if b == nil {
		sandboxMissing(w, r.PathValue("id"))
		return
	}
	answer(w, http.StatusOK, b.wire())
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	b := s.find(w, r)
	if b == nil {
		return
	}
	at := b.started.Truncate(time.Second)
	answer(w, http.StatusOK, []map[string]any{{
		"timestamp": at, "timestampUnix": at.Unix(), "cpuCount": 2, "cpuUsedPct": 12.5,
		"memUsed": 64 << 20, "memTotal": 512 << 20, "memCache": 1 << 20, "diskUsed": 3 << 20, "diskTotal": 1 << 30,
	}})
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	b := s.find(w, r)
	if b == nil {
		return
	}
	answer(w, http.StatusOK, map[string]any{"logs": []map[string]any{
		{"timestamp": b.started, "level": "info", "message": "sandbox started", "fields": map[string]string{"logger": "node"}},
		{"timestamp": b.started, "level": "warn", "message": "second line", "fields": map[string]string{}},
	}})
}
