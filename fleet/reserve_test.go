package fleet_test

import (
	"testing"

	"github.com/soulbox/soulbox"
)

// A sandbox that the node has ready is taken, once, and the next is made.
func TestCreateTakesWhatIsReady(t *testing.T) {
	h := open(t)
	warm := soulbox.NewSandboxID()
	h.node.ready = []soulbox.SandboxID{warm}
	if sb := h.create(); sb.ID != warm {
		t.Errorf("created %s, want %s, which was ready", sb.ID, warm)
	}
	if sb := h.create(); sb.ID == warm || !sb.ID.Valid() {
		t.Errorf("created %q with nothing ready, want a new id", sb.ID)
	}
}
