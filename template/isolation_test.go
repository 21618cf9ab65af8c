package template_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

const refusal = `sandboxes of isolation runc are not allowed on this server; its operator can allow them with the setting "isolation"`

// An import gives a template what was asked for, a name that is taken keeps
// what it has, and what is not allowed is refused before anything is received.
func TestImportIsolation(t *testing.T) {
	w := open(t)
	put := func(class *soulbox.Isolation, text string) (*soulbox.Template, error) {
		source := soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"a", text}))}
		return w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: source, Isolation: class}, nil)
	}
	unread := bytes.NewReader([]byte("a tar"))
	_, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: unread}, Isolation: new(soulbox.Runc)}, nil)
	if soulbox.KindOf(err) != soulbox.Forbidden || soulbox.MessageOf(err) != refusal || unread.Len() != 5 {
		t.Errorf("Import without leave: %v, with %d bytes unread; want Forbidden, and all of them", err, unread.Len())
	}
	w.have(t)
	w.idle(t)

	w.allowed = []soulbox.Isolation{soulbox.Runc}
	w.reopen(t)
	var id soulbox.TemplateID
	for i, tt := range []struct {
		asked *soulbox.Isolation
		want  soulbox.Isolation
	}{
		{nil, soulbox.GVisor},
		{new(soulbox.Runc), soulbox.Runc},
		{nil, soulbox.Runc},
		{new(soulbox.GVisor), soulbox.GVisor},
	} {
		got, err := put(tt.asked, string(rune('a'+i)))
		if err != nil {
			t.Fatalf("Import: %v", err)
		}
		if row := w.row(t, got.ID); got.Isolation != tt.want || row.Isolation != tt.want || row.Image != got.Image || i > 0 && got.ID != id {
			t.Errorf("import %d made %+v, stored as %+v; want isolation %s", i, got, row, tt.want)
		}
		id = got.ID
	}
}

func TestSetIsolation(t *testing.T) {
	w := open(t)
	w.some(t)
	before := w.row(t, "our-app")
	if _, err := w.SetIsolation(t.Context(), ours, "our-app", soulbox.Runc); soulbox.KindOf(err) != soulbox.Forbidden || soulbox.MessageOf(err) != refusal {
		t.Errorf("SetIsolation without leave: %v, want Forbidden", err)
	}
	w.allowed = []soulbox.Isolation{soulbox.Runc}
	w.reopen(t)
	for _, tt := range []struct {
		id   soulbox.TemplateID
		kind soulbox.Kind
		says string
	}{
		{"ghost", soulbox.NotFound, "template 'ghost' not found"},
		{"app", soulbox.NotFound, "template 'app' not found"}, // a name is no id
		{"their-secret", soulbox.NotFound, "template 'their-secret' not found"},
		{"their-gift", soulbox.Forbidden, "template 'gift' belongs to another team"},
		{"house-node", soulbox.Forbidden, "template 'node' belongs to the house and cannot be changed"},
	} {
		if _, err := w.SetIsolation(t.Context(), ours, tt.id, soulbox.Runc); err == nil || soulbox.KindOf(err) != tt.kind || err.Error() != tt.says {
			t.Errorf("SetIsolation of %q: kind %v, %v; want kind %v, %q", tt.id, soulbox.KindOf(err), err, tt.kind, tt.says)
		}
	}
	all, err := w.store.AllTemplates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range all {
		if tpl.Isolation != soulbox.GVisor {
			t.Errorf("%s has isolation %s after what was refused", tpl.ID, tpl.Isolation)
		}
	}

	for _, class := range []soulbox.Isolation{soulbox.Runc, soulbox.Runc, soulbox.GVisor} {
		got, err := w.SetIsolation(t.Context(), ours, "our-app", class)
		if err != nil {
			t.Fatalf("SetIsolation: %v", err)
		}
		if got.Isolation != class || w.row(t, "our-app").Isolation != class || got.Image != before.Image || !got.UpdatedAt.After(before.UpdatedAt) {
			t.Errorf("SetIsolation to %s: %+v, it was %+v", class, got, before)
		}
	}
}

// A change while an import packs waits, and is not undone by the import's row.
func TestSetIsolationDuringImport(t *testing.T) {
	w := open(t)
	w.allowed = []soulbox.Isolation{soulbox.Runc}
	w.reopen(t)
	req := func(text string) soulbox.ImportRequest {
		return soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"a", text}))}}
	}
	first, err := w.Import(t.Context(), req("1"), nil)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	packing, proceed := make(chan struct{}), make(chan struct{})
	w.packer.packing = func() error { close(packing); <-proceed; return nil }
	var wg sync.WaitGroup
	wg.Go(func() {
		if second, err := w.Import(t.Context(), req("2"), nil); err != nil || second.Image == first.Image {
			t.Errorf("Import: %+v, %v", second, err)
		}
	})
	<-packing
	left := errors.New("the client has left")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, left)
	defer cancel()
	if _, err := w.SetIsolation(ctx, ours, first.ID, soulbox.Runc); !errors.Is(err, left) {
		t.Errorf("SetIsolation while an import packs: %v, want %v", err, left)
	}
	changed := make(chan error, 1)
	wg.Go(func() {
		_, err := w.SetIsolation(t.Context(), ours, first.ID, soulbox.Runc)
		changed <- err
	})
	close(proceed)
	if err := <-changed; err != nil {
		t.Errorf("SetIsolation: %v", err)
	}
	wg.Wait()
	if got := w.row(t, first.ID); got.Isolation != soulbox.Runc || got.Image == first.Image {
		t.Errorf("after both the template is %+v", got)
	}
}
