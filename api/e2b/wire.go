package e2b

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

const (
	// envdVersion tells clients what the agent can do; they compare it with
	// the versions in which E2B's own learnt things.
	envdVersion = "0.6.13"

	// clientID was the name of a node once. Clients still want one.
	clientID = "50b0c5e1"
)

// sandboxAnswer is what create and connect return.
type sandboxAnswer struct {
	TemplateID      string  `json:"templateID"`
	SandboxID       string  `json:"sandboxID"`
	ClientID        string  `json:"clientID"`
	Alias           string  `json:"alias,omitempty"`
	EnvdVersion     string  `json:"envdVersion"`
	EnvdAccessToken string  `json:"envdAccessToken,omitempty"`
	TrafficToken    string  `json:"trafficAccessToken,omitempty"` // of a private one
	Domain          *string `json:"domain"`
}

// listedSandbox is one of a list.
type listedSandbox struct {
	TemplateID  string            `json:"templateID"`
	Alias       string            `json:"alias,omitempty"`
	SandboxID   string            `json:"sandboxID"`
	ClientID    string            `json:"clientID"`
	StartedAt   time.Time         `json:"startedAt"`
	EndAt       time.Time         `json:"endAt"`
	CPUCount    int               `json:"cpuCount"`
	MemoryMB    int64             `json:"memoryMB"`
	DiskSizeMB  int64             `json:"diskSizeMB"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	State       string            `json:"state"`
	EnvdVersion string            `json:"envdVersion"`
}

// sandboxDetail is all about one.
type sandboxDetail struct {
	listedSandbox

	EnvdAccessToken     string         `json:"envdAccessToken,omitempty"`
	TrafficToken        string         `json:"trafficAccessToken,omitempty"` // E2B's own has it in other answers only
	AllowInternetAccess bool           `json:"allowInternetAccess"`
	Network             *networkAnswer `json:"network,omitempty"` // of a private one
	Domain              *string        `json:"domain"`
	Lifecycle           lifecycle      `json:"lifecycle"`
}

// networkAnswer says who reaches a sandbox.
type networkAnswer struct {
	AllowPublicTraffic bool `json:"allowPublicTraffic"`
}

type lifecycle struct {
	AutoResume bool   `json:"autoResume"`
	OnTimeout  string `json:"onTimeout"`
}

func (e *room) answerOf(s *soulbox.Sandbox) sandboxAnswer {
	return sandboxAnswer{
		TemplateID:      string(s.Template),
		SandboxID:       string(s.ID),
		ClientID:        clientID,
		Alias:           aliasOf(s),
		EnvdVersion:     envdVersion,
		EnvdAccessToken: tokenOf(s),
		TrafficToken:    s.Traffic,
		Domain:          e.domainOrNull(),
	}
}

func listed(s *soulbox.Sandbox) listedSandbox {
	started := s.StartedAt
	if started.IsZero() {
		started = s.CreatedAt
	}
	state, end := "running", s.ExpiresAt
	if s.State == soulbox.Paused {
		state = "paused"
		if s.Pause != nil {
			end = s.Pause.At // its time does not run
		}
	}
	return listedSandbox{
		TemplateID:  string(s.Template),
		Alias:       aliasOf(s),
		SandboxID:   string(s.ID),
		ClientID:    clientID,
		StartedAt:   moment(started),
		EndAt:       moment(end),
		CPUCount:    s.Size.CPUs,
		MemoryMB:    int64(s.Size.Memory / soulbox.MiB),
		DiskSizeMB:  int64(s.Size.Disk / soulbox.MiB),
		Metadata:    s.Metadata,
		State:       state,
		EnvdVersion: envdVersion,
	}
}

func listedAll(all []*soulbox.Sandbox) []listedSandbox {
	out := make([]listedSandbox, len(all)) // never null: clients iterate
	for i, s := range all {
		out[i] = listed(s)
	}
	return out
}

func (e *room) detailOf(s *soulbox.Sandbox) sandboxDetail {
	d := sandboxDetail{
		listedSandbox:       listed(s),
		EnvdAccessToken:     tokenOf(s),
		TrafficToken:        s.Traffic,
		AllowInternetAccess: s.Network.Internet,
		Domain:              e.domainOrNull(),
		Lifecycle:           lifecycleOf(s),
	}
	if s.Network.Private {
		d.Network = &networkAnswer{}
	}
	return d
}

func lifecycleOf(s *soulbox.Sandbox) lifecycle {
	l := lifecycle{AutoResume: s.Lifecycle.Wake, OnTimeout: "kill"}
	if s.Lifecycle.Pause {
		l.OnTimeout = "pause"
	}
	return l
}

func (e *room) domainOrNull() *string {
	if e.domain == "" {
		return nil
	}
	return &e.domain
}

// aliasOf is the name that the client knows the template by, if it is a name.
func aliasOf(s *soulbox.Sandbox) string {
	if s.Alias == string(s.Template) {
		return ""
	}
	return s.Alias
}

func tokenOf(s *soulbox.Sandbox) string {
	if !s.Secure {
		return ""
	}
	return s.Token
}

// forkAnswer is what became of one copy: exactly one of these.
type forkAnswer struct {
	Sandbox *sandboxAnswer `json:"sandbox,omitempty"`
	Error   *api.Failure   `json:"error,omitempty"`
}

// snapshotAnswer is a snapshot that sandboxes can be made of.
type snapshotAnswer struct {
	SnapshotID string   `json:"snapshotID"` // goes wherever a template's name goes
	Names      []string `json:"names"`      // never null
}

func snapshotOf(s *soulbox.Snapshot, team *soulbox.Team) snapshotAnswer {
	a := snapshotAnswer{SnapshotID: string(s.ID), Names: []string{}}
	if s.Name != "" {
		a.Names = append(a.Names, qualified(s.Name, team))
	}
	return a
}

// qualified returns a name of the team's as it is known to everybody.
func qualified(name string, team *soulbox.Team) string {
	if team.Slug == "" {
		return name
	}
	return team.Slug + "/" + name
}

// moment is a time as E2B writes it: UTC, to the microsecond, which is what
// Python can hold. It is cut, not rounded, so that a sandbox's own startedAt
// used as the filter startedAfter finds it again.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// metric is one measurement of a sandbox.
type metric struct {
	Timestamp     time.Time `json:"timestamp"`
	TimestampUnix int64     `json:"timestampUnix"`
	CPUCount      int       `json:"cpuCount"`
	CPUUsedPct    float64   `json:"cpuUsedPct"` // of all its cores together: 0 to 100
	MemUsed       int64     `json:"memUsed"`
	MemTotal      int64     `json:"memTotal"`
	MemCache      int64     `json:"memCache"`
	DiskUsed      int64     `json:"diskUsed"`
	DiskTotal     int64     `json:"diskTotal"`
}

func metricOf(u soulbox.Usage) metric {
	return metric{
		Timestamp:     moment(u.At),
		TimestampUnix: u.At.Unix(),
		CPUCount:      u.CPUCount,
		CPUUsedPct:    math.Round(100*u.CPUPercent/float64(max(1, u.CPUCount))) / 100, // as E2B rounds
		MemUsed:       int64(u.MemUsed),
		MemTotal:      int64(u.MemTotal),
		MemCache:      int64(u.MemCache),
		DiskUsed:      int64(u.DiskUsed),
		DiskTotal:     int64(u.DiskTotal),
	}
}

// logEntry is one entry of a sandbox's log.
type logEntry struct {
	Timestamp time.Time         `json:"timestamp"`
	Message   string            `json:"message"`
	Level     string            `json:"level"`
	Fields    map[string]string `json:"fields"`
}

// logLine is the same in the older form.
type logLine struct {
	Timestamp time.Time `json:"timestamp"`
	Line      string    `json:"line"`
}

func entryOf(l soulbox.LogEntry) logEntry {
	fields := l.Fields
	if fields == nil {
		fields = map[string]string{} // required to be an object
	}
	return logEntry{Timestamp: moment(l.At), Message: l.Message, Level: levelOf(l.Level), Fields: fields}
}

// lineOf packs an entry into one string of JSON: the CLI unpacks it and needs
// level and logger in it.
func lineOf(l soulbox.LogEntry) logLine {
	all := maps.Clone(l.Fields)
	if all == nil {
		all = map[string]string{}
	}
	if all["logger"] == "" {
		all["logger"] = "sandbox"
	}
	all["level"] = levelOf(l.Level)
	all["message"] = l.Message
	b, _ := json.Marshal(all) // a map of strings always encodes
	return logLine{Timestamp: moment(l.At), Line: string(b)}
}

// levelOf is one of the four levels that clients know.
func levelOf(level string) string {
	switch level {
	case "debug", "warn", "error":
		return level
	}
	return "info"
}

// teamAnswer is one team of whoever has its key.
type teamAnswer struct {
	TeamID    string `json:"teamID"`
	Name      string `json:"name"`
	APIKey    string `json:"apiKey"`
	IsDefault bool   `json:"isDefault"`
}

// keyAnswer is what there is to see of an API key.
type keyAnswer struct {
	ID        string     `json:"id"`
	Key       string     `json:"key,omitempty"` // only when it is made
	Name      string     `json:"name"`
	Mask      mask       `json:"mask"`
	CreatedAt time.Time  `json:"createdAt"`
	CreatedBy *struct{}  `json:"createdBy"` // null: a team made it, we know no persons
	LastUsed  *time.Time `json:"lastUsed"`
}

type mask struct {
	Prefix            string `json:"prefix"`
	ValueLength       int    `json:"valueLength"`
	MaskedValuePrefix string `json:"maskedValuePrefix"`
	MaskedValueSuffix string `json:"maskedValueSuffix"`
}

const (
	keyPrefix = "e2b_"
	keyLength = 40 // without the prefix
)

func keyOf(k *soulbox.Key, plain string) keyAnswer {
	a := keyAnswer{
		ID:        string(k.ID),
		Key:       plain,
		Name:      k.Name,
		Mask:      mask{Prefix: keyPrefix, ValueLength: keyLength, MaskedValueSuffix: k.Suffix},
		CreatedAt: moment(k.CreatedAt),
	}
	if !k.LastUsed.IsZero() {
		t := moment(k.LastUsed)
		a.LastUsed = &t
	}
	return a
}

// templateAnswer is a template in a list.
type templateAnswer struct {
	TemplateID    string     `json:"templateID"`
	BuildID       string     `json:"buildID"`
	CPUCount      int        `json:"cpuCount"`
	MemoryMB      int64      `json:"memoryMB"`
	DiskSizeMB    int64      `json:"diskSizeMB"`
	Public        bool       `json:"public"`
	Aliases       []string   `json:"aliases"`
	Names         []string   `json:"names"`
	CreatedAt     time.Time  `json:"createdAt"`
	UpdatedAt     time.Time  `json:"updatedAt"`
	CreatedBy     *struct{}  `json:"createdBy"`
	LastSpawnedAt *time.Time `json:"lastSpawnedAt"`
	SpawnCount    int64      `json:"spawnCount"`
	BuildCount    int        `json:"buildCount"`
	EnvdVersion   string     `json:"envdVersion"`
	BuildStatus   string     `json:"buildStatus"`
	IsDefault     bool       `json:"isDefault"`
}

// templateDetail is a template with a page of its builds, newest first.
type templateDetail struct {
	templateAnswer

	Builds []buildAnswer `json:"builds"`
}

// templateOf describes t, of which builds is a page that begins with the newest
// one.
func templateOf(t *soulbox.Template, name string, builds soulbox.BuildPage) templateAnswer {
	a := templateAnswer{
		TemplateID:  string(t.ID),
		BuildID:     string(t.Build),
		CPUCount:    t.Size.CPUs,
		MemoryMB:    int64(t.Size.Memory / soulbox.MiB),
		DiskSizeMB:  int64(t.Size.Disk / soulbox.MiB),
		Public:      t.Public,
		Aliases:     []string{t.Name},
		Names:       []string{name},
		CreatedAt:   moment(t.CreatedAt),
		UpdatedAt:   moment(t.UpdatedAt),
		SpawnCount:  t.Starts,
		BuildCount:  builds.Total,
		EnvdVersion: envdVersion,
		BuildStatus: string(soulbox.BuildReady),
		IsDefault:   t.Team == "",
	}
	if len(builds.Builds) > 0 {
		newest := builds.Builds[0]
		a.BuildStatus = statusOf(newest)
		if a.BuildID == "" { // none was ready yet; clients want one
			a.BuildID = string(newest.ID)
		}
	}
	return a
}

// snapshotDetail shows a snapshot to those who ask for a template: one build,
// which is ready. Its id is made of the image, since clients want a UUID.
func snapshotDetail(s *soulbox.Snapshot, team *soulbox.Team) templateDetail {
	t := templateOfSnapshot(s)
	sum, err := hex.DecodeString(t.Image)
	if err != nil {
		sum = []byte(t.Image)
	}
	t.Build = soulbox.BuildID(uuid.NewSHA1(uuid.NameSpaceOID, sum).String())
	b := &soulbox.Build{
		ID: t.Build, State: soulbox.BuildReady, Size: t.Size,
		CreatedAt: t.CreatedAt, QueuedAt: t.CreatedAt, EndedAt: t.UpdatedAt,
	}
	page := soulbox.BuildPage{Builds: []*soulbox.Build{b}, Total: 1}
	return templateDetail{templateOf(t, qualified(t.Name, team), page), []buildAnswer{buildAnswerOf(b)}}
}
