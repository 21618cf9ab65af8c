// Package guest speaks to the agent inside one sandbox, for the house's own
// purposes: telling a new sandbox who it is, reading what happens in it, and
// reaching ports that only its loopback knows. What clients ask of the agent
// goes through the proxy and never comes here.
//
// Everything that an agent answers is hostile: whoever is root in the sandbox
// can answer in its place. Every read has a bound in size, and every call
// that waits has one in time.
package guest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
)

// Port is the one that the agent listens on. It is E2B's.
const Port = 49983

// maxLine bounds one log entry as it comes from a sandbox.
const maxLine = 64 << 10

// An Agent is the one inside one sandbox. Safe for concurrent use.
type Agent struct {
	dial  func(ctx context.Context, port uint16) (net.Conn, error)
	token string
	http  *http.Client
}

// New returns the agent that dial reaches. token may be empty.
func New(dial func(ctx context.Context, port uint16) (net.Conn, error), token string) *Agent {
	return &Agent{dial: dial, token: token, http: &http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, Port) },
			DisableCompression:     true,
			MaxIdleConns:           1,
			MaxResponseHeaderBytes: 16 << 10,
			IdleConnTimeout:        time.Second, // an idle connection costs the sandbox memory
		},
		// A redirect would be the sandbox choosing whom we talk to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends idle connections.
func (a *Agent) Close() { a.http.CloseIdleConnections() }

// An Identity is what a sandbox is told when it begins.
type Identity struct {
	Sandbox     soulbox.SandboxID
	Template    soulbox.TemplateID
	Hostname    string
	Token       string            // callers of the agent must know it from now on; empty: anybody
	Was         string            // the one that it asks for until then: that of the sandbox it is restored from
	Env         map[string]string // for every program
	User        string            // programs run as this user unless they say otherwise
	Workdir     string
	Nameservers []string
	Seed        []byte // fresh randomness for the guest's pool
}

// identity is the agent's /init body: E2B's fields first, ours after.
type identity struct {
	EnvVars        map[string]string `json:"envVars,omitempty"`
	AccessToken    *string           `json:"accessToken,omitempty"` // absent: it stays as it is
	Timestamp      time.Time         `json:"timestamp"`
	DefaultUser    string            `json:"defaultUser,omitempty"`
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"`

	Hostname    string   `json:"hostname,omitempty"`
	SandboxID   string   `json:"sandboxId,omitempty"`
	TemplateID  string   `json:"templateId,omitempty"`
	Nameservers []string `json:"nameservers,omitempty"`
	Seed        []byte   `json:"seed,omitempty"`
}

// Init tells the sandbox who it is.
func (a *Agent) Init(ctx context.Context, id Identity) error {
	var token *string
	if id.Token != "" || id.Was != "" { // one that it has would stay otherwise
		token = &id.Token
	}
	body, err := json.Marshal(identity{ //nolint:gosec // telling the agent its token is what this is for
		EnvVars: id.Env, AccessToken: token, Timestamp: time.Now(), DefaultUser: id.User, DefaultWorkdir: id.Workdir,
		Hostname: id.Hostname, SandboxID: string(id.Sandbox), TemplateID: string(id.Template), Nameservers: id.Nameservers, Seed: id.Seed,
	})
	if err != nil {
		return err
	}
	res, err := a.doAs(ctx, cmp.Or(id.Was, a.token), http.MethodPost, "/init", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Ping returns when the agent has answered anything at all.
func (a *Agent) Ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/health", nil)
	if err != nil {
		return err
	}
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// do makes a call and turns every answer but a 2xx into an error.
func (a *Agent) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	return a.doAs(ctx, a.token, method, path, body)
}

// doAs is do with another token.
func (a *Agent) doAs(ctx context.Context, token, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Access-Token", token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		var text []byte
		if res.StatusCode != http.StatusSwitchingProtocols { // its "body" is the connection, and no context ends it
			text, _ = io.ReadAll(io.LimitReader(res.Body, 512)) // what came is good enough for a log
		}
		return nil, &refusal{method, path, res.StatusCode, text}
	}
	return res, nil
}

// A refusal is an answer that is not a 2xx.
type refusal struct {
	method, path string
	status       int
	text         []byte // hostile
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the agent answered %s %s with %d %q", r.method, r.path, r.status, r.text)
}

// An Entry is a log entry with its place in the agent's count.
type Entry struct {
	Seq uint64
	soulbox.LogEntry
}

// Logs calls each with every entry after number after, oldest first, and goes
// on as new ones come, until ctx ends, each fails, or the connection breaks.
func (a *Agent) Logs(ctx context.Context, after uint64, each func(Entry) error) error {
	res, err := a.do(ctx, http.MethodGet, "/soulbox/logs?after="+strconv.FormatUint(after, 10), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 1<<10), maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		e, err := parseEntry(lines.Bytes())
		if err != nil {
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// wholeLines is bufio.ScanLines without the last one when its end is missing:
// the connection broke off in the middle of it.
func wholeLines(data []byte, _ bool) (advance int, token []byte, err error) {
	if end := bytes.IndexByte(data, '\n'); end >= 0 {
		return end + 1, data[:end], nil
	}
	return 0, nil, nil
}

func parseEntry(line []byte) (Entry, error) {
	var w struct {
		Seq     uint64            `json:"seq"`
		Time    time.Time         `json:"time"`
		Level   string            `json:"level"`
		Message string            `json:"message"`
		Fields  map[string]string `json:"fields"`
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return Entry{}, fmt.Errorf("a log entry of the agent: %w", err)
	}
	switch w.Level {
	case "debug", "info", "warn", "error":
	default:
		w.Level = "info"
	}
	return Entry{Seq: w.Seq, LogEntry: soulbox.LogEntry{At: believe(w.Time), Level: w.Level, Message: w.Message, Fields: w.Fields}}, nil
}

// believe returns a time that a sandbox tells, or now. Its clock is its own
// affair; ours decides about the order. Years beyond 0 to 9999, which a time
// zone can lead to, cannot even be written down.
func believe(t time.Time) time.Time {
	if now := time.Now(); t.Before(time.Unix(0, 0)) || t.After(now) {
		t = now
	}
	return t.UTC()
}

// tunnelTimeout bounds how long it may take to reach the agent and then for
// the agent to connect to a port of its own loopback.
const tunnelTimeout = 5 * time.Second

// Tunnel returns a connection to a port of the sandbox's loopback, for
// programs that listen on 127.0.0.1 only. It is syscall.ECONNREFUSED when
// nothing listens there.
func (a *Agent) Tunnel(ctx context.Context, port uint16) (_ net.Conn, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tunnelTimeout, errSilent)
	defer cancel()
	conn, err := a.dial(ctx, Port)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() {
			err = fmt.Errorf("tunnel to port %d: %w", port, context.Cause(ctx))
		}
	}()
	head := fmt.Sprintf("GET /soulbox/tunnel?port=%d HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: soulbox-tunnel\r\n", port)
	if a.token != "" {
		head += "X-Access-Token: " + a.token + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return nil, err
	}
	status, err := readHead(conn)
	if err != nil {
		return nil, fmt.Errorf("tunnel to port %d: %w", port, err)
	}
	switch {
	case strings.HasPrefix(status, "HTTP/1.1 101 "):
	case strings.HasPrefix(status, "HTTP/1.1 502 "):
		return nil, fmt.Errorf("tunnel to port %d: %w", port, syscall.ECONNREFUSED)
	default:
		return nil, fmt.Errorf("tunnel to port %d: the agent answered %.80q", port, status)
	}
	return conn, nil
}

var errSilent = fmt.Errorf("the agent does not answer within %v: %w", tunnelTimeout, os.ErrDeadlineExceeded)

// readHead reads a response head byte by byte, so that not one byte of what
// comes through the tunnel is taken with it, and returns the status line.
func readHead(conn net.Conn) (string, error) {
	const most = 4 << 10
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if len(head) == most {
			return "", errors.New("the agent's answer is too long")
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return "", err
		}
		head = append(head, b[0])
	}
	status, _, _ := strings.Cut(string(head), "\r\n")
	return status, nil
}
