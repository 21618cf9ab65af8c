package notebook

import (
	"bytes"
	"encoding/json"
	"strings"
)

// shape is a document as JSON has it. Members are in the order of their names,
// as Jupyter writes them, so that little changes when it saves.
type shape struct {
	Cells    []any           `json:"cells"`
	Metadata json.RawMessage `json:"metadata"`
	Format   int             `json:"nbformat"`
	Minor    int             `json:"nbformat_minor"`
}

type textCell struct {
	Attachments any             `json:"attachments,omitempty"`
	Type        string          `json:"cell_type"`
	ID          string          `json:"id"`
	Metadata    json.RawMessage `json:"metadata"`
	Source      any             `json:"source"`
}

type codeCell struct {
	Type     string          `json:"cell_type"`
	Count    *int64          `json:"execution_count"`
	ID       string          `json:"id"`
	Metadata json.RawMessage `json:"metadata"`
	Outputs  []any           `json:"outputs"`
	Source   any             `json:"source"`
}

// MarshalJSON returns the document with its texts whole, for requests.
func (d *Document) MarshalJSON() ([]byte, error) {
	whole := func(s string) any { return s }
	return encode(d.shape(whole, func(raw json.RawMessage) any { return raw }), "")
}

// MarshalJSON returns the cell as it is in a document.
func (c *Cell) MarshalJSON() ([]byte, error) {
	whole := func(s string) any { return s }
	return encode(c.shape(whole, func(raw json.RawMessage) any { return raw }), "")
}

// Print returns the document as a file: as Jupyter writes it, with a line of
// text a line.
func (d *Document) Print() ([]byte, error) {
	b, err := encode(d.shape(func(s string) any { return split(s) }, splitOutput), " ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func (d *Document) shape(text func(string) any, output func(json.RawMessage) any) *shape {
	s := &shape{Cells: make([]any, 0, len(d.Cells)), Metadata: d.Metadata, Format: major, Minor: minor}
	for _, c := range d.Cells {
		s.Cells = append(s.Cells, c.shape(text, output))
	}
	return s
}

func (c *Cell) shape(text func(string) any, output func(json.RawMessage) any) any {
	if c.Type != Code {
		t := &textCell{Type: c.Type, ID: c.ID, Metadata: c.Metadata, Source: text(c.Source)}
		if c.Attachments != nil {
			t.Attachments = c.Attachments
		}
		return t
	}
	s := &codeCell{
		Type: c.Type, Count: c.Count, ID: c.ID, Metadata: c.Metadata, Source: text(c.Source), Outputs: make([]any, 0, len(c.Outputs)),
	}
	for _, o := range c.Outputs {
		s.Outputs = append(s.Outputs, output(o))
	}
	return s
}

// splitOutput returns an output with its texts as lists of lines.
func splitOutput(raw json.RawMessage) any {
	m, ok := members(raw)
	if !ok {
		return raw
	}
	if text, ok := str(m["text"]); ok {
		m["text"] = mustJSON(split(text))
	}
	if data, ok := members(m["data"]); ok {
		for kind, value := range data {
			if text, ok := str(value); ok && !isJSON(kind) {
				data[kind] = mustJSON(split(text))
			}
		}
		m["data"] = mustJSON(data)
	}
	return m
}

// split returns the lines of a text, each with its end.
func split(text string) []string {
	all := strings.SplitAfter(text, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	if all == nil {
		all = []string{}
	}
	return all
}

// encode writes JSON in which <, > and & are themselves.
func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
