package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	maxBuffers = 32 // of a message; kernels get them as frames of their own
	// maxSent is what a client of Tornado takes in one message.
	maxSent = 10 << 20
)

// incoming is what a client sends.
type incoming struct {
	channel string
	parts   *jupyter.Parts
}

// parseText reads a message without buffers.
func parseText(text []byte) (*incoming, error) {
	var m struct {
		Channel  string          `json:"channel"`
		Header   json.RawMessage `json:"header"`
		Parent   json.RawMessage `json:"parent_header"`
		Metadata json.RawMessage `json:"metadata"`
		Content  json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("a message is not JSON: %w", err)
	}
	switch m.Channel {
	case jupyter.Shell, jupyter.Control, jupyter.Stdin:
	default:
		return nil, fmt.Errorf("there is no channel %.50q to send on", m.Channel)
	}
	var head struct {
		ID   string `json:"msg_id"`
		Type string `json:"msg_type"`
	}
	if json.Unmarshal(m.Header, &head) != nil || head.ID == "" || head.Type == "" {
		return nil, errors.New("a message has no header with msg_id and msg_type")
	}
	p := &jupyter.Parts{Header: m.Header, Parent: m.Parent, Metadata: m.Metadata, Content: m.Content}
	for name, part := range map[string]*json.RawMessage{"parent_header": &p.Parent, "metadata": &p.Metadata, "content": &p.Content} {
		switch {
		case *part == nil || string(*part) == "null":
			*part = json.RawMessage("{}")
		case (*part)[0] != '{':
			return nil, fmt.Errorf("a message's %s is not an object", name)
		}
	}
	return &incoming{m.Channel, p}, nil
}

// parseBinary reads a message with buffers: how many parts there are, where each
// begins, the first of them, which is JSON, and the others.
func parseBinary(b []byte) (*incoming, error) {
	const word = 4
	broken := errors.New("a binary message does not have the parts that it says")
	if len(b) < word {
		return nil, broken
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n < 1 || n > 1+maxBuffers || int64(len(b)) < (1+n)*word {
		return nil, broken
	}
	var parts [][]byte
	for i := range n {
		from, to := int64(binary.BigEndian.Uint32(b[(1+i)*word:])), int64(len(b))
		if i+1 < n {
			to = int64(binary.BigEndian.Uint32(b[(2+i)*word:]))
		}
		if from < (1+n)*word || from > to || to > int64(len(b)) {
			return nil, broken
		}
		parts = append(parts, b[from:to])
	}
	m, err := parseText(parts[0])
	if err != nil {
		return nil, err
	}
	m.parts.Buffers = parts[1:]
	return m, nil
}

// kernelHeader is what is looked at of a kernel's header.
type kernelHeader struct {
	ID   string `json:"msg_id"`
	Type string `json:"msg_type"`
}

// compose writes a kernel's message for a client. It is binary when there are
// buffers.
func compose(channel string, head kernelHeader, p *jupyter.Parts) (text []byte, isBinary bool, err error) {
	id, err := json.Marshal([]string{channel, head.ID, head.Type})
	if err != nil {
		return nil, false, err
	}
	var words [3]json.RawMessage
	if err := json.Unmarshal(id, &words); err != nil {
		return nil, false, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"channel":%s,"msg_id":%s,"msg_type":%s,"header":%s,"parent_header":%s,"metadata":%s,"content":%s,"buffers":[]}`,
		words[0], words[1], words[2], p.Header, p.Parent, p.Metadata, p.Content)
	if len(p.Buffers) == 0 {
		return b.Bytes(), false, nil
	}
	parts := append([][]byte{b.Bytes()}, p.Buffers...)
	head4 := binary.BigEndian.AppendUint32(nil, uint32(len(parts)))
	at := 4 * (1 + len(parts))
	for _, part := range parts {
		head4 = binary.BigEndian.AppendUint32(head4, uint32(at))
		at += len(part)
	}
	return bytes.Join(append([][]byte{head4}, parts...), nil), true, nil
}

// note is text that says on stderr what a client does not get, as if the message
// with this parent had printed it.
func note(parent json.RawMessage, format string, args ...any) *jupyter.Parts {
	content, err := json.Marshal(map[string]string{"name": "stderr", "text": fmt.Sprintf(format, args...)})
	if err != nil {
		content = []byte("{}") // it does not fail
	}
	return ours("stream", parent, content)
}

// state says how the kernel is when it cannot say so itself.
func state(s string) *jupyter.Parts {
	return ours("status", nil, json.RawMessage(`{"execution_state":"`+s+`"}`))
}

// ours is a message that no kernel has sent.
func ours(kind string, parent, content json.RawMessage) *jupyter.Parts {
	id := jupyter.NewID()
	head := fmt.Sprintf(`{"msg_id":"%s","session":"%s","username":"soulbox","date":"%s","msg_type":"%s","version":"5.3"}`,
		id, id, time.Now().UTC().Format(jupyterTime), kind)
	if parent == nil {
		parent = json.RawMessage("{}")
	}
	return &jupyter.Parts{Header: json.RawMessage(head), Parent: parent, Metadata: json.RawMessage("{}"), Content: content}
}

// message makes what is sent of a message of ours.
func message(p *jupyter.Parts) sent {
	var head kernelHeader
	_ = json.Unmarshal(p.Header, &head) // it is ours
	text, _, err := compose(jupyter.IOPub, head, p)
	if err != nil {
		return sent{text: []byte("{}")} // it does not fail
	}
	return sent{text: text}
}

// plain takes out of something that is displayed what is meant for the
// interpreter's own clients. Notebooks may hold data as JSON only under names that
// say so, and JupyterLab would show a tree in place of what Python prints.
func plain(content json.RawMessage) json.RawMessage {
	var all, data, metadata map[string]json.RawMessage
	if json.Unmarshal(content, &all) != nil || json.Unmarshal(all["data"], &data) != nil {
		return content
	}
	if json.Unmarshal(all["metadata"], &metadata) != nil {
		metadata = map[string]json.RawMessage{}
	}
	changed := false
	drop := func(kind string) {
		delete(data, kind)
		delete(metadata, kind)
		changed = true
	}
	for kind := range data {
		if strings.HasPrefix(kind, "e2b/") || kind == "soulbox/note" {
			drop(kind)
		}
	}
	var hint struct{ Expanded bool }
	_, isText := data["text/plain"]
	if raw, ok := metadata["application/json"]; ok && isText && json.Unmarshal(raw, &hint) == nil && hint.Expanded {
		drop("application/json")
	}
	if !changed {
		return content
	}
	for name, part := range map[string]any{"data": data, "metadata": metadata} {
		text, err := json.Marshal(part)
		if err != nil {
			return content
		}
		all[name] = text
	}
	text, err := json.Marshal(all)
	if err != nil {
		return content
	}
	return text
}
