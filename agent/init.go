package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	maxInit = 4 << 20 // bytes of an /init request
	// eventsAddress is where E2B's programs send events. Nothing listens there.
	eventsAddress = "http://events.e2b.local"
	// maxDrift is how far the clock may be off before it is set.
	maxDrift = time.Second
)

// isHostname reports whether name is one DNS label.
func isHostname(name string) bool {
	const most = 63
	if name == "" || len(name) > most || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// initRequest is what the host tells the sandbox. Absent fields leave things
// as they are.
type initRequest struct {
	EnvVars        map[string]string `json:"envVars"`
	AccessToken    *string           `json:"accessToken"`
	Timestamp      *time.Time        `json:"timestamp"`
	DefaultUser    string            `json:"defaultUser"`
	DefaultWorkdir string            `json:"defaultWorkdir"`

	Hostname    string   `json:"hostname"`
	SandboxID   string   `json:"sandboxId"`
	TemplateID  string   `json:"templateId"`
	Nameservers []string `json:"nameservers"`
	Seed        []byte   `json:"seed"`
}

// check refuses what could not be applied as a whole.
func (r *initRequest) check() error {
	if r.Hostname != "" && !isHostname(r.Hostname) {
		return fmt.Errorf("hostname %q is not a host name", r.Hostname)
	}
	for _, server := range r.Nameservers {
		if _, err := netip.ParseAddr(server); err != nil {
			return fmt.Errorf("nameserver %q is not an IP address", server)
		}
	}
	if r.DefaultWorkdir != "" && (r.DefaultWorkdir[0] != '/' && r.DefaultWorkdir[0] != '~') {
		return fmt.Errorf("defaultWorkdir %q is not an absolute path", r.DefaultWorkdir)
	}
	for _, text := range []string{r.DefaultUser, r.DefaultWorkdir, r.SandboxID, r.TemplateID} {
		if strings.ContainsAny(text, "\x00\n\r") {
			return fmt.Errorf("%q contains a control character", text)
		}
	}
	return nil
}

// initialize serves POST /init.
func (a *Agent) initialize(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Envd-Version", Version)
	w.Header().Set("Cache-Control", "no-store")
	var req initRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxInit)).Decode(&req)
	if err != nil && !errors.Is(err, io.EOF) { // no body is an empty one
		writeError(w, http.StatusBadRequest, "invalid request body: "+err.Error())
		return
	}
	if err := req.check(); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}

	a.initMu.Lock()
	defer a.initMu.Unlock()
	a.mu.RLock()
	token := a.token
	a.mu.RUnlock()
	if token != "" && !same(r.Header.Get(tokenHeader), token) {
		writeError(w, http.StatusUnauthorized, "access token validation failed")
		return
	}
	// A request that was overtaken by a newer one has nothing to say any more.
	if req.Timestamp == nil || req.Timestamp.After(a.lastSet) {
		a.applyLocked(&req)
	}
	w.WriteHeader(http.StatusNoContent)
}

// applyLocked makes the sandbox what the host says it is. What the sandbox's
// own files refuse is noted in its journal, not an error: it is their owner's
// business, and the sandbox is of use without it.
//
// +checklocks:a.initMu
func (a *Agent) applyLocked(req *initRequest) {
	if req.AccessToken != nil {
		a.mu.Lock()
		a.token = *req.AccessToken
		a.mu.Unlock()
	}
	if req.Timestamp != nil {
		a.lastSet = *req.Timestamp
		if drift := time.Since(*req.Timestamp); a.options.SetClock != nil && drift.Abs() > maxDrift {
			_ = a.options.SetClock(*req.Timestamp) // most sandboxes share the host's clock and may not set it
		}
	}
	if len(req.Seed) > 0 {
		a.note("mix the seed", a.mix(req.Seed))
	}
	if req.SandboxID != "" && req.SandboxID != a.self.sandbox && a.self.sandbox != "" {
		a.journal.Reset() // a snapshot has become a sandbox of its own
	}
	if req.EnvVars != nil {
		a.accounts.ReplaceEnvs(req.EnvVars)
	}
	a.record.Restored() // the host has no other reason to say all this to somebody who has a record
	a.accounts.SetDefaults(req.DefaultUser, req.DefaultWorkdir)
	a.identifyLocked(req)
}

// note records a problem that /init goes on without.
func (a *Agent) note(what string, err error) {
	if err != nil {
		a.journal.Warn(fmt.Sprintf("init: %s: %v", what, err))
	}
}
