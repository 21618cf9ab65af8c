// Package clienttest is a stand-in for a SoulBox server, for tests of programs
// that use package client.
//
// It speaks as much of the API as the client does, but its sandboxes are
// nothing of the kind: their programs run on the machine of the test, as the
// user of the test, and their files are the machine's. A path that is not
// absolute starts in the folder given to [New]. Use it for programs that the
// test itself has written.
//
// Nothing there keeps a program's memory. To pause a sandbox, or to roll it
// back, ends its programs, whatever was asked for; what is resumed has its files
// only. A snapshot, and each fork, is a copy of the sandbox's folder, without
// what lies outside of it. All sandboxes that are made of a template share one
// folder, so a rollback of one of them shows in the others; those that are made
// of a snapshot, and forks, have folders of their own.
//
// Every isolation is allowed, and is nothing but a word.
//
// Builds of templates run nothing: they read a Dockerfile, a line at a time, and
// say what they would do. What is built has no files either; its sandboxes are
// like all others.
//
// Sessions are as little: their checkpoints keep nothing, and their streams of
// events break off every few events, for clients to come back.
package clienttest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

// Key is the API key that every stand-in accepts.
const Key = "e2b_0123456789abcdef0123456789abcdef01234567"

// Version is what a stand-in says of itself.
const Version = "0.0.0-test"

// Server is a stand-in server. It is safe for concurrent use.
type Server struct {
	// URL is its base URL for both planes.
	URL string

	home     string
	http     *httptest.Server
	programs sync.WaitGroup // those of sessions

	mu        sync.Mutex
	boxes     map[string]*box     // +checklocks:mu
	templates map[string]template // +checklocks:mu
	keys      []key               // +checklocks:mu
	snapshots []*snapshot         // +checklocks:mu; in the order in which they were taken
	shelves   map[string]*shelf   // +checklocks:mu; by the ids of their templates
	benches   map[string]*bench   // +checklocks:mu; by the ids of their sandboxes
	sessions  []*session          // +checklocks:mu; in the order in which they were made
	folders   []string            // +checklocks:mu; removed by Close
}

// New starts a server whose sandboxes live in the folder home. The caller
// closes it.
func New(home string) *Server {
	s := &Server{
		home:      home,
		boxes:     map[string]*box{},
		templates: map[string]template{},
		shelves:   map[string]*shelf{},
		benches:   map[string]*bench{},
	}
	s.templates["base"] = template{ID: "tbase", Name: "base", Public: true, CPUs: 2, MemoryMiB: 512, DiskMiB: 1024, Isolation: soulbox.GVisor.String(), Source: "test", CreatedAt: time.Now(), UpdatedAt: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"version": Version})
	})
	mux.HandleFunc("GET /v1/pools", s.listPools)
	mux.HandleFunc("POST /v1/sandboxes", s.create)
	mux.HandleFunc("POST /v2/sandboxes/{id}/connect", s.connect)
	mux.HandleFunc("GET /sandboxes/{id}", s.handle)
	mux.HandleFunc("DELETE /sandboxes/{id}", s.kill)
	mux.HandleFunc("POST /sandboxes/{id}/timeout", s.timeout)
	mux.HandleFunc("POST /sandboxes/{id}/refreshes", s.refresh)
	mux.HandleFunc("POST /sandboxes/{id}/pause", s.pause)
	mux.HandleFunc("POST /sandboxes/{id}/fork", s.fork)
	mux.HandleFunc("POST /sandboxes/{id}/snapshots", s.createSnapshot)
	mux.HandleFunc("GET /sandboxes/{id}/metrics", s.metrics)
	mux.HandleFunc("GET /v2/sandboxes/{id}/logs", s.logs)
	mux.HandleFunc("GET /v1/sandboxes", s.list)
	mux.HandleFunc("GET /v1/sandboxes/{id}", s.info)
	mux.HandleFunc("GET /v1/snapshots", s.listSnapshots)
	mux.HandleFunc("DELETE /v1/snapshots/{id}", s.removeSnapshot)
	mux.HandleFunc("POST /v1/sandboxes/{id}/checkpoints", s.createCheckpoint)
	mux.HandleFunc("GET /v1/sandboxes/{id}/checkpoints", s.listCheckpoints)
	mux.HandleFunc("DELETE /v1/sandboxes/{id}/checkpoints/{checkpoint}", s.removeCheckpoint)
	mux.HandleFunc("GET /v1/sandboxes/{id}/checkpoints/{a}/diff/{b}", s.diff)
	mux.HandleFunc("POST /v1/sandboxes/{id}/rollback", s.rollback)
	s.sessionRoutes(mux)
	s.buildRoutes(mux)
	s.marketRoutes(mux)
	s.labRoutes(mux)
	mux.HandleFunc("GET /v1/templates", s.listTemplates)
	mux.HandleFunc("POST /v1/templates/import", s.importTemplate)
	mux.HandleFunc("DELETE /v1/templates/{id}", s.deleteTemplate)
	mux.HandleFunc("GET /v1/keys", s.listKeys)
	mux.HandleFunc("POST /v1/keys", s.createKey)
	mux.HandleFunc("DELETE /v1/keys/{id}", s.revokeKey)
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("E2b-Sandbox-Id") != "":
			s.data(w, r)
		case r.Header.Get("X-API-KEY") != Key:
			refuse(w, http.StatusUnauthorized, "this API key is not known here")
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	s.URL = s.http.URL
	return s
}

// Close ends every program and the server.
func (s *Server) Close() {
	s.mu.Lock()
	boxes := make([]*box, 0, len(s.boxes))
	for _, b := range s.boxes {
		boxes = append(boxes, b)
	}
	for _, sh := range s.shelves {
		for _, b := range sh.builds {
			b.cancel()
		}
	}
	s.mu.Unlock()
	for _, b := range boxes {
		b.end(soulbox.ByServer, "the test is over")
	}
	s.http.CloseClientConnections()
	s.http.Close()
	s.programs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range s.folders {
		_ = os.RemoveAll(dir) // it is in the folder for what does not stay
	}
}

// End ends a sandbox as the platform would, for instance because its time was
// up.
func (s *Server) End(id string, by soulbox.Ender, reason string) {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if b != nil {
		b.end(by, reason)
	}
}

// Cut is End with the connections of all clients cut off before the end of a
// program can be told, as it is when a machine loses a sandbox.
func (s *Server) Cut(id string, by soulbox.Ender, reason string) {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if b == nil {
		return
	}
	b.finish(by, reason)
	s.http.CloseClientConnections()
	b.agent.killAll()
}

// Live returns the ids of the sandboxes that have not ended, sorted.
func (s *Server) Live() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id, b := range s.boxes {
		if b.ended() == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// data serves the traffic to sandboxes.
func (s *Server) data(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("E2b-Sandbox-Id")
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if !b.reach() {
		answer(w, http.StatusBadGateway, map[string]any{"sandboxId": id, "message": "The sandbox was not found", "code": http.StatusBadGateway})
		return
	}
	port, err := strconv.Atoi(r.Header.Get("E2b-Sandbox-Port"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "no port")
		return
	}
	const agentPort = 49983
	if port != agentPort {
		if want := b.traffic(); want != "" && r.Header.Get("E2b-Traffic-Access-Token") != want {
			refuse(w, http.StatusForbidden, "no traffic token")
			return
		}
		to := &url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(port)}
		_ = http.NewResponseController(w).EnableFullDuplex() // or an answer that begins at once may be cut off
		httputil.NewSingleHostReverseProxy(to).ServeHTTP(w, r)
		return
	}
	if r.Header.Get("X-Access-Token") != b.token() {
		refuse(w, http.StatusUnauthorized, "unauthorized access")
		return
	}
	b.agent.ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone if this fails
}

func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]any{"code": status, "message": message})
}

// page cuts a list as the query says and returns the cursor of the rest.
func page[T any](r *http.Request, all []T) (cut []T, next string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	all = all[min(from, len(all)):]
	if limit > 0 && len(all) > limit {
		return all[:limit], strconv.Itoa(from + limit)
	}
	return all, ""
}

func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, "the body is not JSON: "+err.Error())
		return false
	}
	return true
}

func sandboxMissing(w http.ResponseWriter, id string) {
	refuse(w, http.StatusNotFound, "Sandbox "+strconv.Quote(id)+" doesn't exist or you don't have access to it")
}
