// Package agent is the program that runs as pid 1 in every sandbox and does
// there what clients and the host ask for. It answers on one HTTP port as E2B's
// envd 0.6.13 does:
//
//   - process and filesystem services (rooms of their own), files over HTTP;
//   - /health, /metrics, /envs;
//   - /init, by which the host tells the sandbox who it is: environment, access
//     token, clock, host name. It is called when the sandbox is created and
//     whenever it is resumed;
//   - /soulbox/logs, /soulbox/tunnel, /soulbox/record and /soulbox/state, which
//     only our own host asks for: the proxy lets nobody else through.
//
// # Who may ask
//
// The first /init sets the access token; from then on every request must carry
// it in X-Access-Token, also the next /init, because programs inside the
// sandbox reach this port as well. Exempt are /health and, for holders of a
// signature made with the token, the up- and download of the signed path.
//
// # What it costs
//
// It is part of every sandbox, so it is small: no RPC library, no logger, no
// timer that ticks while nothing happens.
package agent

import (
	"net/http"
	"sync"
	"time"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/agent/filesystem"
	"github.com/soulbox/soulbox/agent/journal"
	"github.com/soulbox/soulbox/agent/port"
	"github.com/soulbox/soulbox/agent/process"
	"github.com/soulbox/soulbox/agent/record"
)

// Version is the version of envd whose behaviour clients may expect.
const Version = "0.6.13"

// Options is what an agent needs.
type Options struct {
	// Root is the directory whose etc and run hold the sandbox's identity and
	// accounts, "/" in a sandbox.
	Root string
	// Path is the PATH of processes whose environment has none.
	Path string
	// Adopt makes the agent reap all children of the program it is part of.
	Adopt bool
	// OOMScoreAdj is what processes get; 0 leaves it alone.
	OOMScoreAdj int
	// SetHostname and SetClock change the sandbox's name and time; nil leaves
	// them alone.
	SetHostname func(name string) error
	SetClock    func(now time.Time) error
}

// Agent answers requests. It is safe for concurrent use.
type Agent struct {
	options   Options
	accounts  *account.Registry
	journal   journal.Journal
	record    *record.Recorder
	processes *process.Service
	files     *filesystem.Service
	tunnel    *port.Tunnel
	routes    http.Handler
	load      cpuMeter

	initMu  sync.Mutex // one /init at a time; taken before mu
	lastSet time.Time  // +checklocks:initMu — the newest timestamp of an /init
	self    identity   // +checklocks:initMu

	mu    sync.RWMutex
	token string // +checklocks:mu — empty before it is set
}

// New starts an agent. The caller closes it.
func New(o Options) *Agent {
	a := &Agent{
		options:  o,
		accounts: account.New(o.Root+"/etc/passwd", o.Root+"/etc/group"),
		tunnel:   port.New(),
	}
	a.accounts.SetSystem("E2B_SANDBOX", "true")
	a.files = filesystem.New(a.accounts)
	a.record = record.New(record.Options{
		Dir: o.Root + recordDir, Watch: a.watchTree, Warn: a.journal.Warn,
	})
	a.processes = process.New(process.Options{
		Accounts: a.accounts, Journal: &a.journal, Record: a.record, Path: o.Path, Adopt: o.Adopt, OOMScoreAdj: o.OOMScoreAdj,
	})

	mux := http.NewServeMux()
	a.processes.Register(mux)
	a.files.Register(mux)
	mux.HandleFunc("GET /health", health)
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("GET /envs", a.envs)
	mux.HandleFunc("POST /init", a.initialize)
	mux.HandleFunc("GET /soulbox/logs", a.logs)
	mux.Handle("GET /soulbox/tunnel", a.tunnel)
	mux.HandleFunc("POST /soulbox/record", a.startRecord)
	mux.HandleFunc("GET /soulbox/record", a.events)
	mux.HandleFunc("GET /soulbox/record/position", a.position)
	mux.HandleFunc("POST /soulbox/record/hold", done(a.record.Hold))
	mux.HandleFunc("POST /soulbox/record/release", done(a.record.Release))
	mux.HandleFunc("GET /soulbox/state", a.state)
	a.routes = allowOrigins(a.authorize(mux))
	return a
}

// ServeHTTP answers one request.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.routes.ServeHTTP(w, r)
}

// Close kills the processes, breaks the tunnels and ends what runs here. The
// server in front of the agent should take no more requests by then.
func (a *Agent) Close() {
	a.tunnel.Close()
	a.files.Close()
	a.processes.Close()
	a.record.Close() // the last thing it hears of is how the processes end
}

// health says that the agent answers.
func health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// envs returns the default environment of processes.
func (a *Agent) envs(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, a.accounts.Envs())
}
