package notebook

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Outputs are what a cell has shown so far, as Jupyter stores it. The zero value
// has none. One goroutine uses it.
type Outputs struct {
	all   []*output
	size  int  // of all of them
	full  bool // the rest is left out
	clear bool // what comes next takes the place of what is there
}

type output struct {
	stream  string // its name, of a stream
	text    strings.Builder
	raw     json.RawMessage // of everything else
	display string          // the id by which it can be changed
}

// Event is a change of a cell's outputs. Of a stream it has what is new of the
// text.
type Event struct {
	Type    string          `json:"type"` // "output", "clear" or "update"
	Cell    string          `json:"cell"`
	Index   *int            `json:"index,omitempty"`  // of what was updated
	Output  json.RawMessage `json:"output,omitempty"` // nbformat's
	Display string          `json:"-"`                // of an update: what it is called, elsewhere
}

// Print adds what was printed.
func (o *Outputs) Print(name, text string) []Event {
	if text == "" {
		return nil
	}
	events := o.begin()
	if o.full {
		return events
	}
	if len(o.all) >= maxCount && o.all[len(o.all)-1].stream != name {
		return append(events, o.fill()...)
	}
	if rest := MaxOutputs - o.size; len(text) > rest {
		for rest > 0 && !utf8.RuneStart(text[rest]) {
			rest--
		}
		events = append(events, o.print(name, text[:rest])...)
		return append(events, o.fill()...)
	}
	return append(events, o.print(name, text)...)
}

func (o *Outputs) print(name, text string) []Event {
	if text == "" {
		return nil
	}
	var last *output
	if len(o.all) > 0 && o.all[len(o.all)-1].stream == name {
		last = o.all[len(o.all)-1]
	} else {
		last = &output{stream: name}
		o.all = append(o.all, last)
	}
	last.text.WriteString(text)
	o.size += len(text)
	return []Event{{Type: "output", Output: streamOutput(name, text)}}
}

func streamOutput(name, text string) json.RawMessage {
	return mustJSON(map[string]string{"output_type": "stream", "name": name, "text": text})
}

// begin clears what should be cleared when something comes.
func (o *Outputs) begin() []Event {
	if !o.clear {
		return nil
	}
	*o = Outputs{}
	return []Event{{Type: "clear"}}
}

// fill ends the outputs, and says so.
func (o *Outputs) fill() []Event {
	o.full = true
	return o.print("stderr", fmt.Sprintf("[the rest of the output was left out: a cell has at most %d MiB, in %d outputs]\n", MaxOutputs>>20, maxCount))
}

// add adds what is no stream.
func (o *Outputs) add(raw json.RawMessage, display string) []Event {
	events := o.begin()
	switch {
	case o.full:
		return events
	case o.size+len(raw) > MaxOutputs, len(o.all) >= maxCount:
		return append(events, o.fill()...)
	}
	o.all = append(o.all, &output{raw: raw, display: display})
	o.size += len(raw)
	return append(events, Event{Type: "output", Output: raw})
}

// Take adds what a kernel's message says, by its type and content. What is no
// output, or cannot be read, adds nothing.
func (o *Outputs) Take(kind string, content json.RawMessage) []Event {
	switch kind {
	case "stream":
		var s struct{ Name, Text string }
		if json.Unmarshal(content, &s) == nil && (s.Name == "stdout" || s.Name == "stderr") {
			return o.Print(s.Name, s.Text)
		}
	case "display_data", "execute_result", "update_display_data":
		return o.show(kind, content)
	case "error":
		var e struct {
			Name  string   `json:"ename"`
			Value string   `json:"evalue"`
			Trace []string `json:"traceback"`
		}
		if json.Unmarshal(content, &e) == nil {
			return o.Fail(e.Name, e.Value, e.Trace)
		}
	case "clear_output":
		var c struct{ Wait bool }
		_ = json.Unmarshal(content, &c) // what cannot be read does not wait
		o.clear = true
		if !c.Wait {
			return o.begin()
		}
	}
	return nil
}

// Fail adds an error.
func (o *Outputs) Fail(name, value string, trace []string) []Event {
	if trace == nil {
		trace = []string{}
	}
	return o.add(mustJSON(map[string]any{"output_type": "error", "ename": name, "evalue": value, "traceback": trace}), "")
}

func (o *Outputs) show(kind string, content json.RawMessage) []Event {
	var m struct {
		Data      map[string]json.RawMessage `json:"data"`
		Metadata  json.RawMessage            `json:"metadata"`
		Count     *int64                     `json:"execution_count"`
		Transient struct {
			Display any `json:"display_id"`
		} `json:"transient"`
	}
	if json.Unmarshal(content, &m) != nil {
		return nil
	}
	display, _ := m.Transient.Display.(string)
	if !isObject(m.Metadata) {
		m.Metadata = json.RawMessage("{}")
	}
	shown := map[string]any{"output_type": kind, "data": keep(m.Data), "metadata": compact(m.Metadata)}
	switch kind {
	case "update_display_data":
		shown["output_type"] = "display_data"
		return o.update(display, mustJSON(shown))
	case "execute_result":
		if m.Count != nil && *m.Count < 0 {
			m.Count = nil
		}
		shown["execution_count"] = m.Count
	}
	return o.add(mustJSON(shown), display)
}

// keep returns those data that a notebook may have: texts, and JSON of types
// that say so. A chart gets such a type; a table has its HTML.
func keep(data map[string]json.RawMessage) map[string]json.RawMessage {
	kept := map[string]json.RawMessage{}
	for kind, value := range data {
		if kind == "e2b/chart" {
			kind = "application/vnd.e2b.chart+json"
		}
		switch {
		case string(value) == "null":
		case isJSON(kind):
			kept[kind] = compact(value)
		default:
			if text, ok := lines(value); ok {
				kept[kind] = mustJSON(text)
			}
		}
	}
	return kept
}

// update changes what is displayed by this id, here or elsewhere. An id that
// nothing has means nothing.
func (o *Outputs) update(display string, raw json.RawMessage) []Event {
	if display == "" {
		return nil
	}
	var events []Event
	for i, one := range o.all {
		if one.display != display {
			continue
		}
		if o.size+len(raw)-len(one.raw) > MaxOutputs {
			return append(events, o.fill()...)
		}
		o.size += len(raw) - len(one.raw)
		one.raw = replaced(one.raw, raw)
		events = append(events, Event{Type: "update", Index: &i, Output: one.raw})
	}
	return append(events, Event{Type: "update", Display: display, Output: raw})
}

// Update gives an output of the cell the data of another one.
func (c *Cell) Update(i int, by json.RawMessage) { c.Outputs[i] = replaced(c.Outputs[i], by) }

// replaced returns an output with the data of another one. A result stays one.
func replaced(old, by json.RawMessage) json.RawMessage {
	was, ok := members(old)
	is, ok2 := members(by)
	if !ok || !ok2 || was["data"] == nil {
		return by
	}
	was["data"], was["metadata"] = is["data"], is["metadata"]
	return mustJSON(was)
}

// List returns the outputs, as a cell has them.
func (o *Outputs) List() []json.RawMessage {
	all := make([]json.RawMessage, 0, len(o.all))
	for _, one := range o.all {
		if one.stream != "" {
			all = append(all, streamOutput(one.stream, one.text.String()))
		} else {
			all = append(all, one.raw)
		}
	}
	return all
}

// Displays returns the ids of what is displayed, by its index.
func (o *Outputs) Displays() map[int]string {
	ids := map[int]string{}
	for i, one := range o.all {
		if one.display != "" {
			ids[i] = one.display
		}
	}
	return ids
}

// Sum returns a hash of an output that does not depend on how its JSON is
// written. The cell may be nil.
func (*Cell) Sum(output json.RawMessage) [sha256.Size]byte { return sha256.Sum256(canonical(output)) }

func canonical(raw json.RawMessage) []byte {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return raw
	}
	return mustJSON(v)
}
