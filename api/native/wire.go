package native

import (
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

type sandboxList struct {
	Sandboxes []sandboxAnswer `json:"sandboxes"`
	Next      string          `json:"next,omitempty"` // the cursor of the next page
	Total     int             `json:"total"`
}

type sandboxAnswer struct {
	ID        string            `json:"id"`
	Template  string            `json:"template"`
	Alias     string            `json:"alias,omitempty"`
	Node      string            `json:"node,omitempty"`
	State     string            `json:"state"`
	CreatedAt time.Time         `json:"created_at"`
	StartedAt *time.Time        `json:"started_at,omitempty"`
	ExpiresAt *time.Time        `json:"expires_at,omitempty"`
	PausedAt  *time.Time        `json:"paused_at,omitempty"`
	EndedAt   *time.Time        `json:"ended_at,omitempty"`
	EndedBy   string            `json:"ended_by,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	CPUs      int               `json:"cpus"`
	MemoryMiB int64             `json:"memory_mib"`
	DiskMiB   int64             `json:"disk_mib"`
	PIDs      int               `json:"pids"`
	Isolation string            `json:"isolation"`
	Internet  bool              `json:"internet"`
	Secure    bool              `json:"secure"`
	Private   bool              `json:"private_ports"`
	Lifecycle lifecycle         `json:"lifecycle"`
	From      string            `json:"from,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`

	TrafficToken string `json:"traffic_token,omitempty"` // not in a list

	// Only in the answer to who made it.
	AccessToken string `json:"access_token,omitempty"`
	Domain      string `json:"domain,omitempty"`
}

// lifecycle says what becomes of a sandbox when its time is up, and of traffic
// after that.
type lifecycle struct {
	OnTimeout string `json:"on_timeout"`
	FilesOnly bool   `json:"files_only"`
	Wake      bool   `json:"wake"`
}

func lifecycleOf(l soulbox.Lifecycle) lifecycle {
	a := lifecycle{OnTimeout: "kill", FilesOnly: l.FilesOnly, Wake: l.Wake}
	if l.Pause {
		a.OnTimeout = "pause"
	}
	return a
}

func sandboxOf(s *soulbox.Sandbox) sandboxAnswer {
	a := sandboxAnswer{
		ID:        string(s.ID),
		Template:  string(s.Template),
		Alias:     s.Alias,
		Node:      string(s.Node),
		State:     string(s.State),
		CreatedAt: s.CreatedAt.UTC(),
		StartedAt: moment(s.StartedAt),
		ExpiresAt: moment(s.ExpiresAt),
		CPUs:      s.Size.CPUs,
		MemoryMiB: int64(s.Size.Memory / soulbox.MiB),
		DiskMiB:   int64(s.Size.Disk / soulbox.MiB),
		PIDs:      s.Size.PIDs,
		Isolation: s.Isolation.String(),
		Internet:  s.Network.Internet,
		Secure:    s.Secure,
		Private:   s.Network.Private,
		Lifecycle: lifecycleOf(s.Lifecycle),
		From:      string(s.From),
		Metadata:  s.Metadata,
	}
	if s.State == soulbox.Paused && s.Pause != nil {
		a.PausedAt = moment(s.Pause.At)
		a.ExpiresAt = nil // its time does not run
	}
	if s.End != nil {
		a.EndedAt = moment(s.End.At)
		a.EndedBy = string(s.End.By)
		a.Reason = s.End.Reason
	}
	return a
}

// aloneOf is sandboxOf for one that is not in a list.
func aloneOf(s *soulbox.Sandbox) sandboxAnswer {
	a := sandboxOf(s)
	a.TrafficToken = s.Traffic
	return a
}

// moment returns nil for a time that has not come.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

type checkpointList struct {
	Checkpoints []checkpointAnswer `json:"checkpoints"`
}

// checkpointAnswer is a moment that a sandbox can return to.
type checkpointAnswer struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Parent    string    `json:"parent,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	Bytes     int64     `json:"bytes"`
	Current   bool      `json:"current"` // the sandbox went on from here
}

func checkpointOf(c *soulbox.Snapshot, current soulbox.SnapshotID) checkpointAnswer {
	return checkpointAnswer{
		ID:        string(c.ID),
		Name:      c.Name,
		Parent:    string(c.Parent),
		CreatedAt: c.CreatedAt.UTC(),
		Bytes:     int64(c.Bytes),
		Current:   c.ID == current,
	}
}

// changeList is what differs between two moments of a sandbox.
type changeList struct {
	Changes   []changeAnswer `json:"changes"`
	Truncated bool           `json:"truncated"`
}

type changeAnswer struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"` // what is in the file after
}

func changesOf(c soulbox.Changes) changeList {
	out := changeList{Changes: make([]changeAnswer, len(c.List)), Truncated: c.Truncated}
	for i, c := range c.List {
		out.Changes[i] = changeAnswer{Path: c.Path, Kind: string(c.Kind), Type: string(c.Type), Bytes: int64(c.Size)}
	}
	return out
}

type snapshotList struct {
	Snapshots []snapshotAnswer `json:"snapshots"`
	Next      string           `json:"next,omitempty"` // the cursor of the next page
}

type snapshotAnswer struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	Sandbox   string    `json:"sandbox"`
	Parent    string    `json:"parent,omitempty"`
	Template  string    `json:"template"`
	Node      string    `json:"node,omitempty"`
	Memory    bool      `json:"memory"`
	Bytes     int64     `json:"bytes"`
	CreatedAt time.Time `json:"created_at"`
}

func snapshotOf(s *soulbox.Snapshot) snapshotAnswer {
	return snapshotAnswer{
		ID:        string(s.ID),
		Kind:      string(s.Kind),
		Name:      s.Name,
		Sandbox:   string(s.Sandbox),
		Parent:    string(s.Parent),
		Template:  string(s.Template),
		Node:      string(s.Node),
		Memory:    s.Memory,
		Bytes:     int64(s.Bytes),
		CreatedAt: s.CreatedAt.UTC(),
	}
}

type templateList struct {
	Templates []templateAnswer `json:"templates"`
	Next      string           `json:"next,omitempty"`  // the cursor of the next page
	Total     *int             `json:"total,omitempty"` // of a search, on all pages
}

type templateAnswer struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	House     bool      `json:"house"` // the server's own, not the team's
	Public    bool      `json:"public"`
	Build     string    `json:"build,omitempty"`
	Version   string    `json:"version,omitempty"`
	Image     string    `json:"image"`
	Source    string    `json:"source,omitempty"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int64     `json:"memory_mib"`
	DiskMiB   int64     `json:"disk_mib"`
	Isolation string    `json:"isolation"`
	User      string    `json:"user,omitempty"`
	Workdir   string    `json:"workdir,omitempty"`
	Starts    int64     `json:"starts"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	Listing *listing    `json:"listing,omitempty"`
	Tags    []tagAnswer `json:"tags,omitempty"`
}

func templateOf(t *soulbox.Template) templateAnswer {
	return templateAnswer{
		ID:        string(t.ID),
		Name:      t.Name,
		House:     t.Team == "",
		Public:    t.Public,
		Build:     string(t.Build),
		Version:   versionOf(t.Version),
		Image:     t.Image,
		Source:    t.Source,
		CPUs:      t.Size.CPUs,
		MemoryMiB: int64(t.Size.Memory / soulbox.MiB),
		DiskMiB:   int64(t.Size.Disk / soulbox.MiB),
		Isolation: t.Isolation.String(),
		User:      t.User,
		Workdir:   t.Workdir,
		Starts:    t.Starts,
		CreatedAt: t.CreatedAt.UTC(),
		UpdatedAt: t.UpdatedAt.UTC(),
	}
}

// importLine is one line of the answer to an import: progress, and last either
// a template or an error.
type importLine struct {
	Progress *string         `json:"progress,omitempty"`
	Template *templateAnswer `json:"template,omitempty"`
	Error    *api.Failure    `json:"error,omitempty"`
}

type keyList struct {
	Keys []keyAnswer `json:"keys"`
}

type keyAnswer struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Suffix    string     `json:"suffix"`
	CreatedAt time.Time  `json:"created_at"`
	LastUsed  *time.Time `json:"last_used,omitempty"`
	Key       string     `json:"key,omitempty"` // only when it is made
}

func keyOf(k *soulbox.Key, plain string) keyAnswer {
	return keyAnswer{
		ID:        string(k.ID),
		Name:      k.Name,
		Suffix:    k.Suffix,
		CreatedAt: k.CreatedAt.UTC(),
		LastUsed:  moment(k.LastUsed),
		Key:       plain,
	}
}

type versionAnswer struct {
	Version string `json:"version"`
}
