package notebook

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
)

// Change is what becomes of a cell; what is nil stays.
type Change struct {
	Source *string
	Type   *string
	Index  *int // where it is afterwards
}

// Add puts a new cell before the one at index, or at the end when index is nil.
func (d *Document) Add(kind, source string, index *int) (*Cell, error) {
	if err := checkType(kind); err != nil {
		return nil, err
	}
	at := len(d.Cells)
	if index != nil {
		at = *index
	}
	switch {
	case at < 0 || at > len(d.Cells):
		return nil, invalid("The notebook has %d cells; a new one cannot be number %d", len(d.Cells), at)
	case len(d.Cells) >= maxCells:
		return nil, invalid("The notebook has %d cells; it cannot have more", len(d.Cells))
	}
	c := &Cell{ID: d.newID(), Type: kind, Source: source, Metadata: json.RawMessage("{}")}
	d.Cells = slices.Insert(d.Cells, at, c)
	return c, nil
}

// Edit changes a cell.
func (d *Document) Edit(id string, to Change) (*Cell, error) {
	c, at := d.Find(id)
	if c == nil {
		return nil, noCell(id)
	}
	if to.Index != nil && (*to.Index < 0 || *to.Index >= len(d.Cells)) {
		return nil, invalid("The notebook has %d cells; none can be number %d", len(d.Cells), *to.Index)
	}
	if to.Type != nil {
		if err := checkType(*to.Type); err != nil {
			return nil, err
		}
		if err := checkCellMetadata(c.Metadata, *to.Type, "cell "+id); err != nil {
			return nil, err
		}
		if c.Type != *to.Type && *to.Type == Code {
			c.Attachments = nil
		}
		if *to.Type != Code {
			c.Outputs, c.Count = nil, nil
		}
		c.Type = *to.Type
	}
	if to.Source != nil {
		c.Source = *to.Source
	}
	if to.Index != nil {
		d.Cells = slices.Insert(slices.Delete(d.Cells, at, at+1), *to.Index, c)
	}
	return c, nil
}

// Remove takes a cell out.
func (d *Document) Remove(id string) error {
	c, at := d.Find(id)
	if c == nil {
		return noCell(id)
	}
	d.Cells = slices.Delete(d.Cells, at, at+1)
	return nil
}

func noCell(id string) error {
	return errorf(http.StatusNotFound, "The notebook has no cell %s", echo(mustJSON(id)))
}

func checkType(kind string) error {
	if kind != Code && kind != Markdown && kind != Raw {
		return invalid("A cell is code, markdown or raw, not %s", echo(mustJSON(kind)))
	}
	return nil
}

// newID returns an id that no cell has, as Jupyter makes them.
func (d *Document) newID() string {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it never fails
		id := hex.EncodeToString(b[:])
		if c, _ := d.Find(id); c == nil {
			return id
		}
	}
}
