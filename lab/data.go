package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	maxDatasets = 32
	maxContent  = 8 << 20 // of data that is sent along
	maxFile     = 2 << 30 // of data from another sandbox; more belongs into a bucket
	maxPath     = 4096

	// datasets is where interpreters find what is brought.
	datasets = "/home/user/.cache/soulbox/datasets"
	// owner is whose interpreters and their files are.
	owner = "user"

	bringAtOnce = 4
	bringTime   = 15 * time.Minute // for all data of one question
	cleanTime   = 10 * time.Second

	// leftAfter is how old a folder is that nobody uses any more: older than a
	// question can be.
	leftAfter = bringTime + MaxWithin + 5*time.Minute
)

// MaxWithin is the most that an analysis may take.
const MaxWithin = time.Hour

// A dataset is where data comes from, in as much as the server has to know it.
type dataset struct {
	Name    string  `json:"name"`
	Format  string  `json:"format"`
	Path    *string `json:"path"`
	URL     *string `json:"url"`
	Content []byte  `json:"content"` // base64
	Sandbox *string `json:"sandbox"`
	File    *string `json:"file"`
	S3      *object `json:"s3"`
}

// foreign are the members of a dataset that the interpreter does not know.
var foreign = []string{"content", "sandbox", "file", "s3"}

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	formats    = map[string]string{"csv": "csv", "parquet": "parquet", "json": "json", "jsonl": "jsonl", "excel": "xlsx"}
)

// A source is a dataset that was asked for. members is what the interpreter
// gets to read of it.
type source struct {
	dataset
	members map[string]json.RawMessage
}

// readSource reads one dataset of a question and checks what the server has to
// do for it. All else is the interpreter's.
func readSource(raw json.RawMessage, at string) (*source, error) {
	s := &source{}
	if err := json.Unmarshal(raw, &s.members); err != nil || s.members == nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s must be an object", at)
	}
	if err := json.Unmarshal(raw, &s.dataset); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, soulbox.Errorf(soulbox.Invalid, "%s: %.50s cannot be %.50s", at, e.Field, e.Value)
		}
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: content must be base64", at)
	}
	_, sent := s.members["content"]
	n := 0
	for _, is := range []bool{s.Path != nil, s.URL != nil, sent, s.Sandbox != nil || s.File != nil, s.S3 != nil} {
		if is {
			n++
		}
	}
	if n != 1 {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s needs one of path, url, content, s3, or sandbox and file; it has %d", at, n)
	}
	if _, known := formats[s.Format]; s.Format != "" && !known {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: format must be csv, parquet, json, jsonl or excel, not %.50q", at, s.Format)
	}
	switch {
	case s.Name != "" && !identifier.MatchString(s.Name) && (sent || s.Sandbox != nil || s.S3 != nil):
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: name must be a variable of letters, digits and _, not %.80q", at, s.Name)
	case sent && len(s.Content) > maxContent:
		return nil, soulbox.Errorf(soulbox.TooLarge, "%s: content has more than %d MiB; write it into a file of the sandbox, or into a bucket", at, maxContent>>20)
	case s.File != nil && s.Sandbox == nil || s.File == nil && s.Sandbox != nil:
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: sandbox and file belong together", at)
	case s.Sandbox != nil && !soulbox.SandboxID(*s.Sandbox).Valid():
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: %.100q is not the id of a sandbox: those hold a-z and 0-9", at, *s.Sandbox)
	case s.File != nil && (*s.File == "" || len(*s.File) > maxPath || strings.ContainsRune(*s.File, 0)):
		return nil, soulbox.Errorf(soulbox.Invalid, "%s: file must be a path of at most %d bytes", at, maxPath)
	case s.S3 != nil:
		if err := s.S3.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	return s, nil
}

// brought reports whether the server has to put the data into the sandbox.
func (s *source) brought() bool { return s.Path == nil && s.URL == nil && s.S3 == nil }

// extension is how the name of the data's file ends, by which interpreters tell
// formats apart.
func (s *source) extension() string {
	if ext, ok := formats[s.Format]; ok {
		return "." + ext
	}
	if s.File == nil {
		return ""
	}
	ext := path.Ext(*s.File)
	if len(ext) < 2 || len(ext) > 10 || !identifier.MatchString("a"+ext[1:]) {
		return ""
	}
	return ext
}

// becomes replaces where the data comes from by what the interpreter knows.
func (s *source) becomes(member, value string) error {
	for _, name := range foreign {
		delete(s.members, name)
	}
	b, err := json.Marshal(value)
	s.members[member] = b
	return err
}

// bring makes all sources such that the interpreter of a sandbox finds them. The
// caller calls clean when they are not needed any more, also after an error.
func (l *Lab) bring(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, all []*source) (clean func(), err error) {
	clean = func() {}
	var files []*source
	for _, s := range all {
		if s.S3 != nil {
			signed, err := s.S3.presign(ctx)
			if err != nil {
				return clean, err
			}
			if err := s.becomes("url", signed); err != nil {
				return clean, err
			}
		}
		if s.brought() {
			files = append(files, s)
		}
	}
	if len(files) == 0 {
		return clean, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bringTime, soulbox.Errorf(soulbox.Unavailable, "the data did not arrive within %v", bringTime))
	defer cancel()
	// A sandbox that cannot use the data need not get it.
	if _, err := l.running(ctx, team, id); err != nil {
		return clean, err
	}
	probe, err := l.dial(ctx, "", string(id)+":"+strconv.Itoa(interpreterPort))
	if err != nil {
		return clean, l.unreached(ctx, id, err)
	}
	_ = probe.Close() // nothing went over it
	l.sweep(ctx, team, id)
	folder := datasets + "/" + folderName(time.Now())
	clean = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		l.remove(ctx, team, id, folder)
	}
	errs := make([]error, len(files))
	limit := make(chan struct{}, bringAtOnce)
	var wg sync.WaitGroup
	for i, s := range files {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			name := s.Name
			if name == "" {
				name = "data"
			}
			to := fmt.Sprintf("%s/%d/%s%s", folder, i, name, s.extension())
			if errs[i] = l.carry(ctx, team, id, s, to); errs[i] == nil {
				errs[i] = s.becomes("path", to)
			}
			if errs[i] != nil {
				cancel() // the others are not needed any more
			}
		})
	}
	wg.Wait()
	for _, err := range errs { // the first reason, and not what it led to
		if err != nil && !errors.Is(err, context.Canceled) {
			return clean, err
		}
	}
	return clean, errors.Join(errs...)
}

// unreached says why an interpreter cannot be connected to.
func (l *Lab) unreached(ctx context.Context, id soulbox.SandboxID, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case refusedBy(err):
		return l.without(id)
	}
	return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("sandbox %s does not answer as it should", id))
}

// carry writes one dataset into a file of a sandbox.
func (l *Lab) carry(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, s *source, to string) error {
	if s.Sandbox == nil {
		return l.write(ctx, team, id, to, bytes.NewReader(s.Content), int64(len(s.Content)))
	}
	from := soulbox.SandboxID(*s.Sandbox)
	res, err := l.send(ctx, team, from, message{verb: http.MethodGet, port: agentPort, path: "/files?" + url.Values{"path": {*s.File}}.Encode()})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // as much was read as is wanted
	if res.StatusCode != http.StatusOK {
		return agentRefused(ctx, res, fmt.Sprintf("%.200q of sandbox %s", *s.File, from))
	}
	if res.ContentLength > maxFile {
		return errLarge(s)
	}
	in := &bounded{r: res.Body, left: maxFile, large: errLarge(s)}
	err = l.write(ctx, team, id, to, in, res.ContentLength)
	why := in.failed()
	switch {
	case why == nil:
		return err
	case errors.Is(why, in.large) || context.Cause(ctx) != nil:
		return broken(ctx, why)
	}
	// The sandbox that it is for has seen an upload that breaks off.
	return soulbox.Hide(soulbox.Unavailable, why, fmt.Sprintf("%.200q of sandbox %s cannot be read to its end", *s.File, from))
}

func errLarge(s *source) error {
	return soulbox.Errorf(soulbox.TooLarge, "%.200q of sandbox %s has more than %d GiB", *s.File, *s.Sandbox, maxFile>>30)
}

// bounded reads as much as may be brought, and remembers why it stopped. The
// transport may read on for a moment when it has been answered.
type bounded struct {
	r     io.Reader
	left  int64
	large error

	mu  sync.Mutex
	err error // +checklocks:mu
}

func (b *bounded) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Read reads on.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		err = b.large
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// write makes a file of body.
func (l *Lab) write(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, to string, body io.Reader, size int64) error {
	res, err := l.send(ctx, team, id, message{
		verb: http.MethodPost, port: agentPort, path: "/files?" + url.Values{"path": {to}, "username": {owner}}.Encode(),
		kind: "application/octet-stream", body: body, size: size,
	})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // what it says does not matter
	if res.StatusCode != http.StatusOK {
		return agentRefused(ctx, res, "the data cannot be written into the sandbox")
	}
	return nil
}

// agentKinds is what the statuses of an agent mean for files.
var agentKinds = map[int]soulbox.Kind{
	http.StatusBadRequest:          soulbox.Invalid,
	http.StatusForbidden:           soulbox.Invalid,
	http.StatusNotFound:            soulbox.NotFound,
	http.StatusInsufficientStorage: soulbox.Exhausted,
}

// agentRefused says why a file cannot be read or written.
func agentRefused(ctx context.Context, res *http.Response, what string) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxSay))
	if err != nil {
		return broken(ctx, err)
	}
	var says struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &says) != nil || says.Message == "" {
		says.Message = "status " + strconv.Itoa(res.StatusCode)
	}
	kind, ok := agentKinds[res.StatusCode]
	if !ok {
		kind = soulbox.Unavailable
	}
	return soulbox.Errorf(kind, "%s: %s", what, sentence(says.Message))
}

// folderName names a folder for the data of one question, and says when it was
// made.
func folderName(now time.Time) string {
	return fmt.Sprintf("%d-%s", now.Unix(), strings.ToLower(rand.Text()[:12]))
}

// madeAt reads when a folder was made; ok says that it is one of ours.
func madeAt(name string) (at time.Time, ok bool) {
	secs, _, ok := strings.Cut(name, "-")
	n, err := strconv.ParseInt(secs, 10, 64)
	return time.Unix(n, 0), ok && err == nil
}

// agent returns the way to the procedures of a sandbox's agent.
func (l *Lab) agent(sb *soulbox.Sandbox) *connectjson.Client {
	c := &connectjson.Client{
		HTTP: &http.Client{Transport: l.http, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Base: "http://" + string(sb.ID) + ":" + strconv.Itoa(agentPort), Header: http.Header{},
	}
	if sb.Token != "" {
		c.Header.Set("X-Access-Token", sb.Token)
	}
	return c
}

type pathRequest struct {
	Path  string             `json:"path"`
	Depth connectjson.Uint32 `json:"depth,omitempty"`
}

type listResponse struct {
	Entries []struct {
		Name string `json:"name"`
	} `json:"entries"`
}

// sweep removes folders that a server has left which died. What cannot be
// removed now may be the next time.
func (l *Lab) sweep(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) {
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	sb, err := l.opts.Fleet.Live(ctx, team, id)
	if err != nil {
		return
	}
	list, err := connectjson.Call[listResponse](ctx, l.agent(sb), "/filesystem.Filesystem/ListDir", &pathRequest{Path: datasets, Depth: 1})
	if err != nil {
		return
	}
	for _, e := range list.Entries {
		if at, ok := madeAt(e.Name); ok && time.Since(at) > leftAfter && !strings.Contains(e.Name, "/") {
			l.remove(ctx, team, id, datasets+"/"+e.Name)
		}
	}
}

// remove removes a folder, unless the sandbox does not run any more. What stays
// is found by sweep.
func (l *Lab) remove(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, folder string) {
	sb, err := l.opts.Fleet.Live(ctx, team, id)
	if err != nil || sb.State != soulbox.Running {
		return
	}
	_, _ = connectjson.Call[struct{}](ctx, l.agent(sb), "/filesystem.Filesystem/Remove", &pathRequest{Path: folder}) // see above
}
