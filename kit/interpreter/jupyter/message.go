package jupyter

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	protocol  = "5.3"
	username  = "soulbox"
	delimiter = "<IDS|MSG>"
	// maxHeader bounds what is decoded of every message, whoever it is for.
	maxHeader = 64 << 10
)

// Message is what a kernel says about a run.
type Message struct {
	Type    string
	Date    string          // as the kernel wrote it
	Content json.RawMessage // JSON, an object; empty when it was skipped
	Stream  string          // "stdout" or "stderr" of a part of long output, which has no Content
	Text    string          // and what is printed there
	Skipped int64           // bytes that were too many
	parent  string
}

type header struct {
	ID       string `json:"msg_id"`
	Session  string `json:"session"`
	Username string `json:"username"`
	Date     string `json:"date"`
	Type     string `json:"msg_type"`
	Version  string `json:"version"`
}

// NewID returns a random UUID.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// sign returns the signature of a message's four parts.
func sign(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return hex.AppendEncode(nil, h.Sum(nil))
}

// compose returns the frames of a request and its id.
func compose(key []byte, session, kind string, content any) (id string, frames [][]byte, err error) {
	id = NewID()
	head, err := json.Marshal(header{
		ID: id, Session: session, Username: username, Type: kind, Version: protocol,
		Date: time.Now().UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return "", nil, err
	}
	body, err := json.Marshal(content)
	if err != nil {
		return "", nil, err
	}
	none := []byte("{}")
	return id, [][]byte{[]byte(delimiter), sign(key, head, none, none, body), head, none, none, body}, nil
}

// parse makes a message of frames. One that was skipped in part cannot be
// checked, so nothing of its content is believed.
func parse(key []byte, frames [][]byte, skipped int64) (*Message, error) {
	for len(frames) > 0 && string(frames[0]) != delimiter {
		frames = frames[1:] // a topic, or who it is for
	}
	if len(frames) < 6 {
		return nil, errors.New("a message is not whole")
	}
	signature, head, parent, metadata, content := frames[1], frames[2], frames[3], frames[4], frames[5]
	if skipped == 0 && !hmac.Equal(signature, sign(key, head, parent, metadata, content)) {
		return nil, errors.New("a message is not signed by the kernel")
	}
	m, err := parseHeaders(head, parent)
	if err != nil {
		return nil, err
	}
	m.Skipped = skipped
	if skipped == 0 {
		if content = bytes.ToValidUTF8(content, []byte("\ufffd")); !json.Valid(content) {
			return nil, errors.New("a message's content is not JSON")
		}
		m.Content = content
	}
	return m, nil
}

// parseHeaders makes a message without content.
func parseHeaders(head, parent []byte) (*Message, error) {
	if len(head) > maxHeader || len(parent) > maxHeader {
		return nil, errors.New("a header is too long")
	}
	var h, p header
	if err := json.Unmarshal(head, &h); err != nil {
		return nil, fmt.Errorf("a header: %w", err)
	}
	if err := json.Unmarshal(parent, &p); err != nil {
		return nil, fmt.Errorf("a parent header: %w", err)
	}
	return &Message{Type: h.Type, Date: h.Date, parent: p.ID}, nil
}
