package template_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestDraftRefuses(t *testing.T) {
	w := open(t)
	many := make([]string, 33)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for _, tt := range []struct {
		name string
		tags []string
		size soulbox.Size
		says string
	}{
		{"", nil, soulbox.Size{}, "1 to 128 of"},
		{"a b", nil, soulbox.Size{}, "1 to 128 of"},
		{"theirs/app", nil, soulbox.Size{}, "the namespace of your team is 'ours', not 'theirs'"},
		{"app@1.0.0", nil, soulbox.Size{}, "a build gets its version when it is ready"},
		{"app:f81d4fae-7dec-41d0-a765-00a0c91e6bf6", nil, soulbox.Size{}, "could be the id of a build"},
		{"app", []string{"F81D4FAE-7dec-41d0-a765-00a0c91e6bf6"}, soulbox.Size{}, "could be the id of a build"},
		{"app", []string{"not a tag"}, soulbox.Size{}, "a tag has 1 to 128 of"},
		{"app", many, soulbox.Size{}, "a build may have 32 tags, not 33"},
		{"app", nil, soulbox.Size{CPUs: 9}, "can have 1 to 8 CPUs, not 9"},
		{"app", nil, soulbox.Size{CPUs: -1}, "can have 1 to 8 CPUs, not -1"},
		{"app", nil, soulbox.Size{Memory: 5 * soulbox.GiB}, "can have 128 to 4096 MiB of memory, not 5120"},
		{"app", nil, soulbox.Size{Memory: soulbox.MiB}, "can have 128 to 4096 MiB of memory, not 1"},
		{"app", nil, soulbox.Size{Disk: -1}, "MiB of disk"},
		{"app", nil, soulbox.Size{Disk: 2 * soulbox.TiB}, "can have up to 1048576 MiB of disk, not 2097152"},
	} {
		_, _, err := w.Draft(t.Context(), ours, tt.name, tt.tags, tt.size)
		wantError(t, fmt.Sprintf("Draft %q %q %+v", tt.name, tt.tags, tt.size), err, soulbox.Invalid, tt.says)
	}
	if all, err := w.store.AllTemplates(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("templates after what was refused: %v, %v", all, err)
	}
	snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Team: ours, Kind: soulbox.ForCreate, Name: "monday", Ready: true}
	if err := w.store.InsertSnapshot(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.Draft(t.Context(), ours, "monday:v1", nil, soulbox.Size{})
	wantError(t, "Draft under the name of a snapshot", err, soulbox.Conflict, "your team has a snapshot 'monday'")
	if _, _, err := w.Draft(t.Context(), theirs, "monday", nil, soulbox.Size{}); err != nil {
		t.Errorf("Draft under the name of another team's snapshot: %v", err)
	}
	if _, _, err := w.Draft(t.Context(), "nobody", "app", nil, soulbox.Size{}); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Draft of nobody: %v", err)
	}
}

// A draft of what there is keeps its size, unless it asks for another.
func TestDraftSize(t *testing.T) {
	w := open(t)
	w.start(t)
	sizes := func(cpus int, mib soulbox.Bytes) soulbox.Size {
		return soulbox.Size{CPUs: cpus, Memory: mib * soulbox.MiB}
	}
	for _, tt := range []struct{ ask, want soulbox.Size }{
		{soulbox.Size{}, sizes(2, 1024)},
		{sizes(4, 0), sizes(4, 1024)},
		{soulbox.Size{}, sizes(4, 1024)},
		{sizes(1, 256), sizes(1, 256)},
	} {
		_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Size: tt.ask, Recipe: run("write a b")})
		if err != nil {
			t.Fatal(err)
		}
		b = w.await(t, b.ID, soulbox.BuildReady)
		if b.Size.CPUs != tt.want.CPUs || b.Size.Memory != tt.want.Memory || b.Size.Disk != w.Defaults.Disk || b.Size.PIDs != w.Defaults.PIDs {
			t.Errorf("asked for %+v, got %+v", tt.ask, b.Size)
		}
	}
}

func TestDraftIsolation(t *testing.T) {
	w := open(t)
	w.start(t)
	req := soulbox.BuildRequest{Team: ours, Name: "app", Isolation: new(soulbox.Runc), Recipe: run("write a b")}
	_, _, err := w.Request(t.Context(), req)
	wantError(t, "Request without leave", err, soulbox.Forbidden, "not allowed on this server")
	w.allowed = []soulbox.Isolation{soulbox.Runc}
	w.reopen(t)
	w.start(t)
	_, b, err := w.Request(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, b.ID, soulbox.BuildReady)
	if row := w.row(t, b.Template); row.Isolation != soulbox.Runc {
		t.Errorf("the template has isolation %s", row.Isolation)
	}
	// The next one has the same, which cannot be restored.
	starts := run("write a b")
	starts.Start = "serve"
	_, _, err = w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: starts})
	wantError(t, "Request with a start command", err, soulbox.Invalid, "those of isolation runc cannot")
	_, draft, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "Trigger with a start command", w.Trigger(t.Context(), ours, draft.Template, draft.ID, starts, nil), soulbox.Invalid, "those of isolation runc cannot")
	_, b, err = w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: starts, Isolation: new(soulbox.GVisor)})
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, b.ID, soulbox.BuildReady)
	_, err = w.SetIsolation(t.Context(), ours, b.Template, soulbox.Runc)
	wantError(t, "SetIsolation", err, soulbox.Invalid, "those of isolation runc cannot")
}

// What is wrong with a request changes nothing.
func TestRequestRefuses(t *testing.T) {
	w := open(t)
	w.start(t)
	hash := strings.Repeat("ab", 32)
	step := func(kind soulbox.StepKind, args ...string) soulbox.Recipe {
		return soulbox.Recipe{Image: "debian", Steps: []soulbox.Step{{Kind: kind, Args: args}}}
	}
	long := strings.Repeat("x", 1<<20)
	for name, tt := range map[string]struct {
		req  soulbox.BuildRequest
		kind soulbox.Kind
		says string
	}{
		"nothing to build on":           {soulbox.BuildRequest{}, soulbox.Invalid, "this one has 0"},
		"two things to build on":        {soulbox.BuildRequest{Recipe: soulbox.Recipe{Image: "a", Template: "b"}}, soulbox.Invalid, "this one has 2"},
		"a Dockerfile and steps":        {soulbox.BuildRequest{Recipe: soulbox.Recipe{Dockerfile: "FROM a", Steps: run("x").Steps}}, soulbox.Invalid, "not both"},
		"a target without a Dockerfile": {soulbox.BuildRequest{Recipe: soulbox.Recipe{Image: "a", Target: "b"}}, soulbox.Invalid, "belong to a Dockerfile"},
		"an image of this machine":      {soulbox.BuildRequest{Recipe: soulbox.Recipe{Image: "/etc"}}, soulbox.Invalid, "is no name of an image"},
		"a template that cannot be":     {soulbox.BuildRequest{Recipe: soulbox.Recipe{Template: "a b"}}, soulbox.Invalid, "1 to 128 of"},
		"an unknown step":               {soulbox.BuildRequest{Recipe: step("FROM", "x")}, soulbox.Invalid, `step 1: "FROM" is none of COPY`},
		"RUN without a command":         {soulbox.BuildRequest{Recipe: step(soulbox.StepRun)}, soulbox.Invalid, "step 1: RUN has 1 to 2 arguments, not 0"},
		"ENV without a value":           {soulbox.BuildRequest{Recipe: step(soulbox.StepEnv, "A")}, soulbox.Invalid, "names and values in turn"},
		"WORKDIR of two":                {soulbox.BuildRequest{Recipe: step(soulbox.StepWorkdir, "a", "b")}, soulbox.Invalid, "WORKDIR has 1 to 1 arguments, not 2"},
		"USER of nobody":                {soulbox.BuildRequest{Recipe: step(soulbox.StepUser)}, soulbox.Invalid, "USER has 1 to 2 arguments, not 0"},
		"COPY without files":            {soulbox.BuildRequest{Recipe: step(soulbox.StepCopy, "a", "b")}, soulbox.Invalid, "COPY needs the hash of its files"},
		"files that are not there": {
			soulbox.BuildRequest{Recipe: soulbox.Recipe{Image: "a", Steps: []soulbox.Step{{Kind: soulbox.StepCopy, Args: []string{"a", "b"}, Files: hash}}}},
			soulbox.Invalid, "the files with hash " + hash + " have not been uploaded",
		},
		"a context that is not there": {soulbox.BuildRequest{Recipe: soulbox.Recipe{Dockerfile: "FROM a", Context: hash}}, soulbox.Invalid, "have not been uploaded"},
		"a context that is a path":    {soulbox.BuildRequest{Recipe: soulbox.Recipe{Dockerfile: "FROM a", Context: "../../etc"}}, soulbox.Invalid, "have not been uploaded"},
		"files of a RUN":              {soulbox.BuildRequest{Recipe: soulbox.Recipe{Image: "a", Steps: []soulbox.Step{{Kind: soulbox.StepRun, Args: []string{"a"}, Files: hash}}}}, soulbox.Invalid, "RUN takes no files"},
		"NUL in a step":               {soulbox.BuildRequest{Recipe: run("a\x00b")}, soulbox.Invalid, "is not text"},
		"no UTF-8 in an argument":     {soulbox.BuildRequest{Recipe: soulbox.Recipe{Dockerfile: "FROM a", Args: map[string]string{"A": "\xff"}}}, soulbox.Invalid, "is not text"},
		"a long recipe":               {soulbox.BuildRequest{Recipe: run(long, "x")}, soulbox.TooLarge, "and may have 1048576"},
		"many steps":                  {soulbox.BuildRequest{Recipe: run(make([]string, 1001)...)}, soulbox.TooLarge, "may have 1000 steps, not 1001"},
		"a change of no kind":         {soulbox.BuildRequest{Recipe: run("x"), Bump: "huge"}, soulbox.Invalid, "a change is major, minor or patch"},
		"a name that cannot be":       {soulbox.BuildRequest{Name: "a b", Recipe: run("x")}, soulbox.Invalid, "1 to 128 of"},
		"a login for nothing":         {soulbox.BuildRequest{Recipe: run("x"), Logins: map[string]soulbox.Login{"": {}}}, soulbox.Invalid, "needs the name of its registry"},
		"a long password":             {soulbox.BuildRequest{Recipe: run("x"), Logins: map[string]soulbox.Login{"a": {Password: long}}}, soulbox.TooLarge, "the login for a has more than"},
		"a secret without an id":      {soulbox.BuildRequest{Recipe: run("x"), Secrets: map[string][]byte{"": nil}}, soulbox.Invalid, "a secret needs an id"},
		"a long secret":               {soulbox.BuildRequest{Recipe: run("x"), Secrets: map[string][]byte{"a": []byte(long)}}, soulbox.TooLarge, "the secret a has more than"},
	} {
		tt.req.Team = ours
		if tt.req.Name == "" {
			tt.req.Name = "app"
		}
		_, _, err := w.Request(t.Context(), tt.req)
		wantError(t, name, err, tt.kind, tt.says)
	}
	if all, err := w.store.AllTemplates(t.Context()); len(all) != 0 || err != nil {
		t.Errorf("templates after what was refused: %v, %v", all, err)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "builds")); err != nil || len(left) != 1 {
		t.Errorf("in the folder of builds: %v, %v; want that of uploads alone", left, err)
	}
}

func TestTriggerRefuses(t *testing.T) {
	w := open(t)
	w.start(t)
	tpl, draft, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := w.Draft(t.Context(), ours, "other", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		team  soulbox.TeamID
		id    soulbox.TemplateID
		build soulbox.BuildID
		says  string
	}{
		"another team":     {theirs, tpl.ID, draft.ID, "template '" + string(tpl.ID) + "' not found"},
		"another template": {ours, other.ID, draft.ID, "build '" + string(draft.ID) + "' not found"},
		"no template":      {ours, "ghost", draft.ID, "template 'ghost' not found"},
		"no build":         {ours, tpl.ID, "ghost", "build 'ghost' not found"},
	} {
		wantError(t, name, w.Trigger(t.Context(), tt.team, tt.id, tt.build, run("write a b"), nil), soulbox.NotFound, tt.says)
	}
	wantError(t, "a bad recipe", w.Trigger(t.Context(), ours, tpl.ID, draft.ID, soulbox.Recipe{}, nil), soulbox.Invalid, "this one has 0")
	if err := w.Trigger(t.Context(), ours, tpl.ID, draft.ID, run("wait"), nil); err != nil {
		t.Fatalf("Trigger: %v", err)
	}
	wantError(t, "Trigger again", w.Trigger(t.Context(), ours, tpl.ID, draft.ID, run("write a b"), nil), soulbox.Invalid, "is not waiting for its recipe")
	w.engine.proceed(draft.ID)
	b := w.await(t, draft.ID, soulbox.BuildReady)
	wantError(t, "Trigger of what is ready", w.Trigger(t.Context(), ours, tpl.ID, draft.ID, run("write a b"), nil), soulbox.Invalid, "it is ready")
	if b.Recipe.Steps[0].Args[0] != "wait" {
		t.Errorf("the recipe is %+v", b.Recipe)
	}
}

// Two who trigger one draft: one of them does.
func TestTriggerTogether(t *testing.T) {
	w := open(t)
	w.start(t)
	tpl, draft, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for i := range 8 {
		go func() {
			logins := map[string]soulbox.Login{"docker.io": {User: fmt.Sprint(i)}}
			errs <- w.Trigger(t.Context(), ours, tpl.ID, draft.ID, run(fmt.Sprintf("write who %d", i)), logins)
		}()
	}
	won := 0
	for range 8 {
		if err := <-errs; err == nil {
			won++
		} else if soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Trigger: %v", err)
		}
	}
	b := w.await(t, draft.ID, soulbox.BuildReady)
	jobs := w.engine.built()
	if won != 1 || len(jobs) != 1 {
		t.Fatalf("%d won and %d jobs came of it, want 1", won, len(jobs))
	}
	if who := content(t, w.tree(t, b.Image), "who"); jobs[0].Credentials["docker.io"].User != who {
		t.Errorf("the recipe is that of %s, and the login that of %s", who, jobs[0].Credentials["docker.io"].User)
	}
}

func TestFail(t *testing.T) {
	w := open(t)
	w.start(t)
	tpl, draft, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	why := soulbox.BuildFailure{Message: "there is no such registry", Step: 2}
	wantError(t, "Fail by a stranger", w.Fail(t.Context(), theirs, tpl.ID, draft.ID, why), soulbox.NotFound, "not found")
	if err := w.Fail(t.Context(), ours, tpl.ID, draft.ID, why); err != nil {
		t.Fatalf("Fail: %v", err)
	}
	b := w.built(t, draft)
	if b.State != soulbox.BuildFailed || *b.Failure != why || !slices.Equal(w.lines(t, b), []string{"2|there is no such registry"}) {
		t.Errorf("the build is %+v, and told %q", b, w.lines(t, b))
	}
	wantError(t, "Fail again", w.Fail(t.Context(), ours, tpl.ID, draft.ID, why), soulbox.Invalid, "it is error")
	running := w.ask(t, "app", run("wait"))
	w.await(t, running.ID, soulbox.BuildRunning)
	wantError(t, "Fail of what runs", w.Fail(t.Context(), ours, tpl.ID, running.ID, why), soulbox.Invalid, "it is building")
	w.engine.proceed(running.ID)
	w.await(t, running.ID, soulbox.BuildReady)
}

// A team cannot fill the queue for all others.
func TestTooManyBuilds(t *testing.T) {
	w := open(t)
	for i := range 100 {
		if _, _, err := w.Draft(t.Context(), ours, fmt.Sprint("app", i), nil, soulbox.Size{}); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := w.Draft(t.Context(), ours, "more", nil, soulbox.Size{})
	wantError(t, "one more", err, soulbox.Exhausted, "your team has 100 builds that are not over, and may have 100")
	if _, _, err := w.Draft(t.Context(), theirs, "app", nil, soulbox.Size{}); err != nil {
		t.Errorf("Draft of another team: %v", err)
	}
}
