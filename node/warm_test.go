package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
)

// The agent of a sandbox made ahead is woken only when there is something that
// it does not know.
func TestReserved(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, func(o *node.Options) { o.WarmMemory = 100 * soulbox.MiB })
	sized := func() *soulbox.Template {
		tpl := w.template()
		tpl.Size = size
		return tpl
	}
	n.Expect(sized(), 1)
	tests := []struct {
		name   string
		change func(*soulbox.Sandbox, *soulbox.Template)
		told   string // part of what the agent is told; empty: nothing
	}{
		{name: "as it is", change: func(*soulbox.Sandbox, *soulbox.Template) {}},
		{name: "environment", change: func(sb *soulbox.Sandbox, _ *soulbox.Template) { sb.Env = map[string]string{"B": "mine"} }, told: `"B":"mine"`},
		{name: "no token", change: func(sb *soulbox.Sandbox, _ *soulbox.Template) { sb.Secure = false }, told: `"accessToken":""`},
		// Last, because what is made from then on is made of that template.
		{name: "template's user", change: func(_ *soulbox.Sandbox, tpl *soulbox.Template) { tpl.User = "other" }, told: `"defaultUser":"other"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tpl := sized()
			// Asked for without pause, none would be made.
			for deadline := time.Now().Add(patience); n.Pools().Pools[0].Ready == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("none is made ahead")
				}
			}
			id, ok := n.Reserve(tpl)
			if !ok {
				t.Fatal("none waits")
			}
			sb := w.sandbox(id)
			sb.Env = nil
			test.change(sb, tpl)
			before := w.agent.inits(id)
			if err := n.Create(t.Context(), sb, tpl); err != nil {
				t.Fatal(err)
			}
			switch after := w.agent.inits(id)[len(before):]; {
			case test.told == "" && len(after) > 0:
				t.Errorf("the agent was woken to hear %q", after)
			case test.told != "" && (len(after) != 1 || !strings.Contains(after[0], test.told)):
				t.Errorf("the agent was told %q, want %s", after, test.told)
			}
			destroy(t, n, id)
		})
	}
}

// inits returns everything that the agent of a sandbox was told about itself.
func (a *agent) inits(id soulbox.SandboxID) (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, body := range a.heard {
		if strings.Contains(body, `"`+string(id)+`"`) {
			all = append(all, body)
		}
	}
	return all
}
