package notebook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"unicode/utf8"
)

const (
	major = 4
	minor = 5
	// maxEcho is how much of a bad value is shown to whoever sent it.
	maxEcho = 60
)

// Parse reads a document. The error, an *Error, says what is wrong with it and
// where.
func Parse(text []byte) (*Document, error) {
	if len(text) > MaxSize {
		return nil, errorf(http.StatusRequestEntityTooLarge, "The notebook is larger than %d MiB", MaxSize>>20)
	}
	if !utf8.Valid(text) {
		return nil, invalid("The notebook is not UTF-8")
	}
	if depth(text) > maxDepth {
		return nil, invalid("The notebook's JSON is nested deeper than %d", maxDepth)
	}
	var top map[string]json.RawMessage
	err := json.Unmarshal(text, &top)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, invalid("The notebook is not JSON: %s, at byte %d", syntax.Error(), syntax.Offset)
	case err != nil || top == nil:
		return nil, invalid("The notebook is not a JSON object")
	}
	version, err := readVersion(top)
	if err != nil {
		return nil, err
	}
	if err := known(top, "the notebook", "metadata", "nbformat", "nbformat_minor", "cells"); err != nil {
		return nil, err
	}
	d := &Document{Metadata: compact(top["metadata"])}
	if err := checkMetadata(d.Metadata); err != nil {
		return nil, err
	}
	var cells []json.RawMessage
	if !isKind(top["cells"], '[') || json.Unmarshal(top["cells"], &cells) != nil {
		return nil, invalid("The notebook's cells are not a list")
	}
	if len(cells) > maxCells {
		return nil, invalid("The notebook has %d cells, more than %d", len(cells), maxCells)
	}
	ids := map[string]bool{}
	for i, raw := range cells {
		where := "cell " + strconv.Itoa(i)
		c, err := parseCell(raw, where, version < minor)
		if err != nil {
			return nil, err
		}
		if ids[c.ID] && version == minor {
			return nil, invalid("%s: its id %s is another cell's, too", where, c.ID)
		}
		if version < minor {
			c.name(ids)
		}
		ids[c.ID] = true
		d.Cells = append(d.Cells, c)
	}
	return d, nil
}

// readVersion returns the minor version of a document that can be read.
func readVersion(top map[string]json.RawMessage) (int64, error) {
	if _, ok := top["nbformat"]; !ok {
		return 0, invalid("This is not a notebook: it has no nbformat")
	}
	format, ok := integer(top["nbformat"])
	if !ok {
		return 0, invalid("The notebook's nbformat is %s, not a number", echo(top["nbformat"]))
	}
	if format != major {
		return 0, invalid("The notebook is of nbformat %d; 4 is what is read. `jupyter nbconvert --to notebook` makes one of an older one", format)
	}
	version, ok := integer(top["nbformat_minor"])
	if !ok {
		return 0, invalid("The notebook's nbformat_minor is not a number")
	}
	if version > minor {
		return 0, invalid("The notebook is of nbformat 4.%d; 4.%d is the newest that is read", version, minor)
	}
	return version, nil
}

func parseCell(raw json.RawMessage, where string, old bool) (*Cell, error) {
	var m map[string]json.RawMessage
	if !isKind(raw, '{') || json.Unmarshal(raw, &m) != nil {
		return nil, invalid("%s is not an object", where)
	}
	c := &Cell{}
	var ok bool
	if c.Type, ok = str(m["cell_type"]); !ok || (c.Type != Code && c.Type != Markdown && c.Type != Raw) {
		return nil, invalid("%s: its cell_type is %s, not code, markdown or raw", where, echo(m["cell_type"]))
	}
	names := []string{"id", "cell_type", "metadata", "source", "attachments"}
	if c.Type == Code {
		names = []string{"id", "cell_type", "metadata", "source", "outputs", "execution_count"}
	}
	if err := known(m, where, names...); err != nil {
		return nil, err
	}
	if c.ID, ok = str(m["id"]); !old && (!ok || !isID(c.ID)) {
		return nil, invalid("%s: its id is %s, not 1 to %d letters, digits, - and _", where, echo(m["id"]), maxID)
	}
	if c.Source, ok = lines(m["source"]); !ok {
		return nil, invalid("%s: its source is neither a string nor a list of strings", where)
	}
	c.Metadata = compact(m["metadata"])
	if err := checkCellMetadata(c.Metadata, c.Type, where); err != nil {
		return nil, err
	}
	if a, ok := m["attachments"]; ok {
		var err error
		if c.Attachments, err = parseAttachments(a, where); err != nil {
			return nil, err
		}
	}
	if c.Type != Code {
		return c, nil
	}
	return c, c.parseOutputs(m, where)
}

func (c *Cell) parseOutputs(m map[string]json.RawMessage, where string) error {
	var err error
	if c.Count, err = parseCount(m, where); err != nil {
		return err
	}
	var outputs []json.RawMessage
	if !isKind(m["outputs"], '[') || json.Unmarshal(m["outputs"], &outputs) != nil {
		return invalid("%s: its outputs are not a list", where)
	}
	for i, raw := range outputs {
		o, err := parseOutput(raw, where+": output "+strconv.Itoa(i))
		if err != nil {
			return err
		}
		c.Outputs = append(c.Outputs, o)
	}
	return nil
}

// name gives a cell of an old document an id, the same each time that the
// document is read: whoever reads it and then names the cell must be understood.
func (c *Cell) name(taken map[string]bool) {
	if isID(c.ID) && !taken[c.ID] {
		return // some programs wrote them before they were allowed
	}
	sum := sha256.Sum256([]byte(c.Type + "\x00" + c.Source))
	base := hex.EncodeToString(sum[:4])
	c.ID = base
	for n := 2; taken[c.ID]; n++ {
		c.ID = base + "-" + strconv.Itoa(n)
	}
}

// isID reports whether a cell may be called so.
func isID(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxID
}

// depth returns how deep JSON is nested, without believing that it is JSON.
func depth(text []byte) int {
	deepest, now := 0, 0
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// isKind reports whether a value is there and begins so.
func isKind(raw json.RawMessage, first byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == first
}

func str(raw json.RawMessage) (string, bool) {
	var s string
	return s, isKind(raw, '"') && json.Unmarshal(raw, &s) == nil
}

// integer reads a number that is whole and not negative.
func integer(raw json.RawMessage) (int64, bool) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	return n, err == nil && n >= 0
}

// lines reads a text that may be a list of its lines.
func lines(raw json.RawMessage) (string, bool) {
	if s, ok := str(raw); ok {
		return s, true
	}
	if !isKind(raw, '[') {
		return "", false
	}
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return "", false
	}
	var b bytes.Buffer
	for _, one := range all {
		s, ok := str(one)
		if !ok {
			return "", false
		}
		b.WriteString(s)
	}
	return b.String(), true
}

// compact returns JSON without spaces that mean nothing; what is no JSON as it is.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

// echo shows a bad value.
func echo(raw json.RawMessage) string {
	switch {
	case raw == nil:
		return "missing"
	case len(raw) > maxEcho:
		return "something else"
	}
	return string(compact(raw))
}
