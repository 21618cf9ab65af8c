// Package server puts the rooms together: it is the only one that knows them
// all. [Open] builds them in the order in which they need each other, starts
// them, and returns a server that listens; [Server.Close] stops them in
// reverse. Sandboxes live on.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/e2b"
	"github.com/soulbox/soulbox/api/native"
	"github.com/soulbox/soulbox/api/oci"
	"github.com/soulbox/soulbox/depot"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/internal/cleanup"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/lab"
	"github.com/soulbox/soulbox/ledger/meter"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/proxy"
	"github.com/soulbox/soulbox/session"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/postgres"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/team"
	"github.com/soulbox/soulbox/template"
	"github.com/soulbox/soulbox/templates"
)

// A Server is one SoulBox.
type Server struct {
	log   *slog.Logger
	teams *team.Directory
	owner soulbox.TeamID
	lis   net.Listener
	undo  cleanup.Stack
	fail  chan error
}

const (
	// minFree is how much disk must be free for a sandbox to be made: what
	// the running ones may still write would be missing otherwise.
	minFree = soulbox.GiB

	// warmFloor is how much of the machine's memory stays free of sandboxes
	// that nobody has asked for.
	warmFloor = soulbox.GiB
	// warmBase is how many of the template base wait before the first request.
	warmBase = 4

	// drainTimeout bounds how long Close waits for requests under way.
	drainTimeout = 5 * time.Second
)

// Open starts a server. progress is called with lines for people while
// something takes long, such as the first build of the base template.
func Open(ctx context.Context, log *slog.Logger, cfg Config, progress func(string)) (_ *Server, err error) {
	cfg, err = cfg.filled()
	if err != nil {
		return nil, err
	}
	s := &Server{log: log, fail: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.Run())
		}
	}()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	faults := fault.Arm(cfg.Fault)

	// Take the address first: it is what fails most often, and failing later
	// would waste a build.
	var listen net.ListenConfig
	if s.lis, err = listen.Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, soulbox.Errorf(soulbox.Unavailable, "cannot listen on %s: %w", cfg.Listen, err)
	}
	s.undo.Push(func() error { return ignoreClosed(s.lis.Close()) })

	// Remembering.
	seed, err := openData(cfg.Data)
	if err != nil {
		return nil, err
	}
	db, err := openStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.undo.Push(db.Close)
	s.teams = team.New(log, db, soulbox.Limits{
		Sandboxes: cfg.MaxSandboxes,
		Timeout:   time.Duration(cfg.MaxHours) * time.Hour,
		Memory:    cfg.size().Memory,
		CPUs:      cfg.size().CPUs,
	})
	s.undo.Push(s.teams.Close)

	// Doing.
	images, err := rootfs.Open(log, filepath.Join(cfg.Data, "images"))
	if err != nil {
		return nil, err
	}
	driver, err := gvisorDriver(cfg, faults)
	if err != nil {
		return nil, err
	}
	others, err := otherDrivers(cfg, faults)
	if err != nil {
		return nil, err
	}
	// The proxy asks the fleet, the fleet the node, and the node tells the
	// proxy. Nobody asks before all three are there, but a sandbox that was left
	// may end as soon as the node looks after it.
	var drops atomic.Pointer[proxy.Proxy]
	machine, err := node.Open(ctx, node.Options{
		Log: log, ID: "local", Dir: cfg.Data, Instance: cfg.instance(), Driver: driver, Others: others, Images: images, Seed: seed,
		Prefix: prefixOf(cfg.Network), Resolver: addrOf(cfg.Resolver), Ready: cfg.ReadyNetworks, MinFree: minFree, Faults: faults,
		WarmMemory: cfg.warm(), WarmFloor: warmFloor, SnapshotBound: cfg.snapshots(),
		Gone: func(id soulbox.SandboxID) {
			if p := drops.Load(); p != nil {
				p.Drop(id)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	s.undo.Push(machine.Close)
	engine, err := openEngine(log, cfg, packer{images}, machine)
	if err != nil {
		return nil, err
	}
	house, err := templates.Choose(cfg.Templates)
	if err != nil {
		return nil, err
	}
	building := template.Options{
		Log: log, Store: db, Packer: packer{images}, Baker: machine, Seed: seed, Faults: faults,
		Dir: filepath.Join(cfg.Data, "work"), BuildDir: filepath.Join(cfg.Data, "builds"),
		Defaults: cfg.size(), Allowed: cfg.allowed(), House: house,
		Workers: cfg.Builds, Time: time.Duration(cfg.BuildMinutes) * time.Minute, Step: cfg.step(),
	}
	if engine != nil {
		s.undo.Push(engine.Close)
		building.Engine = engine
	}
	var pushes *depot.Depot // is opened with the templates, and before any of them is removed
	building.Removed = func() { pushes.Hint() }
	register, err := template.Open(building)
	if err != nil {
		return nil, err
	}
	if pushes, err = openDepot(ctx, log, cfg, db, register, faults); err != nil {
		return nil, err
	}

	// Deciding.
	usage := meter.New(meter.Options{Log: log, Store: db, Node: machine})
	var sessions *session.Registry // hears of the fleet, which starts later
	sandboxes := fleet.New(fleet.Options{
		Log: log, Store: db, Node: machine, Meter: usage, Seed: seed, Faults: faults, Allowed: cfg.allowed(),
		Changed: func(sb *soulbox.Sandbox) { sessions.Changed(sb) },
	})
	door := proxy.New(proxy.Options{Log: log, Metrics: metrics, Sandboxes: sandboxes, Waker: sandboxes, Node: machine})
	drops.Store(door)
	s.undo.Push(func() error { door.Close(); return nil })
	sessions = session.New(session.Options{
		Log: log, Dir: filepath.Join(cfg.Data, "sessions"), Store: db, Fleet: sandboxes, Guests: machine, Meter: usage, Traffic: door, Faults: faults,
	})
	interpreted, err := templates.Interpreted()
	if err != nil {
		return nil, err
	}
	asks := lab.New(lab.Options{Fleet: sandboxes, Traffic: door, Templates: interpreted})
	owner, err := s.teams.EnsureDefault(ctx)
	if err != nil {
		return nil, err
	}
	s.owner = owner.ID
	if err := ensureBase(ctx, register, cfg.Base, progress); err != nil {
		return nil, err
	}
	base, err := db.TemplateByName(ctx, "", "base")
	if err != nil {
		return nil, err
	}
	machine.Expect(base, warmBase)
	if err := sandboxes.Start(ctx); err != nil {
		return nil, err
	}
	s.undo.Push(sandboxes.Close)
	if err := register.Start(ctx); err != nil {
		return nil, err
	}
	s.undo.Push(register.Close)
	pushes.Start()
	s.undo.Push(pushes.Close)
	if err := usage.Start(ctx); err != nil {
		return nil, err
	}
	s.undo.Push(usage.Close)
	if err := sessions.Start(ctx); err != nil {
		return nil, err
	}
	s.undo.Push(sessions.Close)

	// Asking.
	routes := append(
		e2b.Routes(sandboxes, s.teams, register, e2b.Options{Domain: cfg.Domain, Seed: seed, Disk: cfg.size().Disk}),
		native.Routes(sandboxes, s.teams, native.Options{Version: cfg.Version, Domain: cfg.Domain, Pools: machine})...,
	)
	routes = slices.Concat(routes, native.SessionRoutes(sessions), native.LabRoutes(asks), native.TemplateRoutes(register, register), oci.Routes(pushes))
	control, err := api.New(log, s.teams, routes, api.Options{Metrics: metrics})
	if err != nil {
		return nil, err
	}
	front := api.NewServer(door.Handler(control), log)
	front.RegisterOnShutdown(sessions.Disconnect) // their streams end only when they are told to
	front.RegisterOnShutdown(register.Disconnect)
	s.serve(front, s.lis)
	if cfg.Metrics != "off" {
		lis, err := listen.Listen(ctx, "tcp", cfg.Metrics)
		if err != nil {
			return nil, soulbox.Errorf(soulbox.Unavailable, "cannot listen on %s for metrics: %w", cfg.Metrics, err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		s.serve(api.NewServer(mux, log), lis)
	}
	log.InfoContext(ctx, "server open", "url", s.URL(), "data", cfg.Data, "instance", cfg.instance())
	return s, nil
}

// serve answers on l until Close.
func (s *Server) serve(srv *http.Server, l net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.fail <- fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
	}()
	s.undo.Push(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		err := srv.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close() // streams may last for days
		}
		<-done
		return err
	})
}

func openStore(ctx context.Context, cfg Config) (*store.Store, error) {
	if cfg.Database != "sqlite" {
		return postgres.Open(ctx, cfg.Database)
	}
	return sqlite.Open(ctx, filepath.Join(cfg.Data, "soulbox.db"))
}

// Addr is where clients connect.
func (s *Server) Addr() net.Addr { return s.lis.Addr() }

// URL is where clients on this machine find the server.
func (s *Server) URL() string { return serverURL(s.lis.Addr()) }

// NewKey makes an API key of the default team.
func (s *Server) NewKey(ctx context.Context, name string) (string, error) {
	plain, _, err := s.teams.CreateKey(ctx, s.owner, name)
	return plain, err
}

// Wait returns when the server can no longer serve.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.fail:
		return err
	}
}

// Close stops the server. Requests under way get a moment to finish;
// sandboxes go on and are found again by the next Open.
func (s *Server) Close() error { return s.undo.Run() }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// prefixOf and addrOf read what [Config.check] has approved.
func prefixOf(s string) netip.Prefix {
	p, _ := netip.ParsePrefix(s) // empty is the zero value
	return p
}

func addrOf(s string) netip.Addr {
	a, _ := netip.ParseAddr(s) // empty is the zero value
	return a
}
