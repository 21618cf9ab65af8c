package e2b

import (
	"context"
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

func (e *room) createV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return e.create(w, r, who, false)
}

func (e *room) createV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return e.create(w, r, who, true)
}

func (e *room) create(w http.ResponseWriter, r *http.Request, who soulbox.Actor, v2 bool) error {
	if r.Header.Get("Idempotency-Key") != "" {
		return notYet("a create that can be repeated (the header Idempotency-Key)")
	}
	var body createRequest
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	req, err := body.toNoun(v2)
	if err != nil {
		return err
	}
	req.Team = who.Team
	s, err := e.fleet.Create(r.Context(), req)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, e.answerOf(s))
}

func (e *room) connectV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return e.connect(w, r, who, false)
}

func (e *room) connectV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return e.connect(w, r, who, true)
}

func (e *room) connect(w http.ResponseWriter, r *http.Request, who soulbox.Actor, v2 bool) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body connectRequest
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	otherwise := noDefault
	if v2 {
		otherwise = defaultTimeoutV2
	}
	d, err := body.toNoun(otherwise)
	if err != nil {
		return err
	}
	s, resumed, err := e.fleet.Connect(r.Context(), who.Team, id, d, body.cold())
	if err != nil {
		return err
	}
	status := http.StatusOK
	if resumed {
		status = http.StatusCreated
	}
	return api.Answer(w, status, e.answerOf(s))
}

func (e *room) sandbox(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	s, err := e.fleet.Live(r.Context(), who.Team, id)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, e.detailOf(s))
}

func (e *room) kill(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	if err := e.fleet.Kill(r.Context(), who.Team, id, soulbox.ByClient, "killed by a request"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (e *room) setTimeout(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		Timeout *int32 `json:"timeout"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	d, err := seconds("timeout", body.Timeout)
	if err != nil {
		return err
	}
	if err := e.awake(r.Context(), who.Team, id); err != nil {
		return err
	}
	if err := e.fleet.SetTimeout(r.Context(), who.Team, id, d); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// awake returns an error when the sandbox is paused. To what needs a running
// one a paused one is not there: clients of E2B make their own error of that.
func (e *room) awake(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) error {
	s, err := e.fleet.Live(ctx, team, id)
	if err == nil && s.State == soulbox.Paused {
		err = soulbox.Errorf(soulbox.NotFound, "sandbox %s is paused; connect to it first, which resumes it", id)
	}
	return err
}

const (
	minRefresh = 15 * time.Second // shorter ones count as this
	maxRefresh = time.Hour
)

// refresh is how old clients keep a sandbox alive.
func (e *room) refresh(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		Duration *int32 `json:"duration"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	d := minRefresh
	if body.Duration != nil {
		if d, err = seconds("duration", body.Duration); err != nil {
			return err
		}
	}
	if d > maxRefresh {
		return soulbox.Errorf(soulbox.Invalid, "duration must not be longer than %d seconds", maxRefresh/time.Second)
	}
	if err := e.awake(r.Context(), who.Team, id); err != nil {
		return err
	}
	if _, err := e.fleet.Extend(r.Context(), who.Team, id, max(d, minRefresh)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// setNetwork replaces what a running sandbox may reach; what is left out goes
// back to its default.
func (e *room) setNetwork(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body networkUpdate
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	n, err := network(body.AllowInternetAccess, &body.networkRequest)
	if err != nil {
		return err
	}
	if n.Private { // E2B's own would say 204 and leave the ports open
		return soulbox.Errorf(soulbox.Invalid, "allowPublicTraffic: whether the ports of a sandbox are private is said when it is created")
	}
	if err := e.awake(r.Context(), who.Team, id); err != nil {
		return err
	}
	if err := e.fleet.SetNetwork(r.Context(), who.Team, id, n); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
