package native

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

const (
	maxOrder      = 1 << 20   // bytes of the part that is JSON, secrets included
	maxDockerfile = 256 << 10 // bytes; the longest in use have some 50 KiB
	maxCommand    = 8 << 10   // bytes of a start or ready command
	maxArgs       = 256       // build arguments
)

// order is what somebody wants built, as the JSON of a build's request spells
// it. A request that is a tar says the same in its query, but for secrets and
// logins.
type order struct {
	Tags       []string                 `json:"tags"`
	Bump       string                   `json:"bump"`
	Dockerfile string                   `json:"dockerfile"` // where it is in the context
	Target     string                   `json:"target"`
	Args       map[string]string        `json:"args"`
	Start      string                   `json:"start"`
	Ready      string                   `json:"ready"`
	NoCache    bool                     `json:"no_cache"`
	CPUs       int                      `json:"cpus"`
	MemoryMiB  int64                    `json:"memory_mib"`
	DiskMiB    int64                    `json:"disk_mib"`
	Isolation  *string                  `json:"isolation"`
	Visibility string                   `json:"visibility"`
	Secrets    map[string][]byte        `json:"secrets"`
	Registries map[string]registryLogin `json:"registries"`
}

type registryLogin struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// readOrder reads the request for a build: parts, or a tar of the context.
func (n *templateRoom) readOrder(r *http.Request, who soulbox.Actor) (*soulbox.BuildRequest, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && kind == "multipart/form-data" {
		if len(r.URL.Query()) > 0 {
			return nil, soulbox.Errorf(soulbox.Invalid, "a request in parts says everything in its part %q; leave the query out", "request")
		}
		return n.readParts(r, who, multipart.NewReader(r.Body, params["boundary"]))
	}
	o, err := orderOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	req, err := o.noun()
	if err != nil {
		return nil, err
	}
	return req, n.receive(r, who, r.Body, o.Dockerfile, req)
}

// readParts reads the parts request (JSON), dockerfile (text) and context (a
// tar), each of which may be left out, in this order.
func (n *templateRoom) readParts(r *http.Request, who soulbox.Actor, parts *multipart.Reader) (*soulbox.BuildRequest, error) {
	var o order
	text, seen := "", -1
	var req *soulbox.BuildRequest
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, partError(err)
		}
		at, err := partOrder(part.FormName(), seen)
		if err != nil {
			return nil, err
		}
		seen = at
		switch part.FormName() {
		case "request":
			b, err := readPart(part, maxOrder)
			if err != nil {
				return nil, err
			}
			if err := api.Unmarshal(b, &o); err != nil {
				return nil, err
			}
		case "dockerfile":
			b, err := readPart(part, maxDockerfile)
			if err != nil {
				return nil, err
			}
			text = string(b)
			if err := checkDockerfile(text); err != nil {
				return nil, err
			}
		case "context":
			// What is wrong with the rest shows before a long upload.
			if req, err = o.noun(); err != nil {
				return nil, err
			}
			req.Recipe.Dockerfile = text
			if err := n.receive(r, who, contextPart{part}, o.Dockerfile, req); err != nil {
				return nil, err
			}
		}
	}
	if req != nil {
		return req, nil
	}
	if text == "" {
		return nil, soulbox.Errorf(soulbox.Invalid, "there is nothing to build: send a Dockerfile, or a context with one")
	}
	req, err := o.noun()
	if err != nil {
		return nil, err
	}
	req.Recipe.Dockerfile = text
	return req, nil
}

// partOrder returns which part has this name, if it may come after those that
// were seen.
func partOrder(name string, seen int) (int, error) {
	for i, known := range []string{"request", "dockerfile", "context"} {
		switch {
		case name != known:
		case i <= seen:
			return 0, soulbox.Errorf(soulbox.Invalid, "the part %q comes twice or too late: the order is request, dockerfile, context", name)
		default:
			return i, nil
		}
	}
	return 0, soulbox.Errorf(soulbox.Invalid, "a build has no part %.50q; it has request, dockerfile and context", name)
}

func readPart(part *multipart.Part, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(part, most+1))
	switch {
	case err != nil:
		return nil, partError(err)
	case int64(len(b)) > most:
		return nil, soulbox.Errorf(soulbox.TooLarge, "the part %q is larger than %d KiB", part.FormName(), most>>10)
	}
	return b, nil
}

// partError says what went wrong with parts, for whoever sent them.
func partError(err error) error {
	if soulbox.KindOf(err) != soulbox.Internal {
		return err
	}
	return soulbox.Hide(soulbox.Invalid, err, "the body is not what multipart/form-data says it is")
}

// A contextPart is a part that says of its errors what they are about.
type contextPart struct{ *multipart.Part }

func (p contextPart) Read(b []byte) (int, error) {
	n, err := p.Part.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // readers must return io.EOF itself
		err = partError(err)
	}
	return n, err
}

// receive takes a context in, and the Dockerfile out of it unless req has one.
func (n *templateRoom) receive(r *http.Request, who soulbox.Actor, body io.Reader, name string, req *soulbox.BuildRequest) error {
	if name == "" {
		name = "Dockerfile"
	}
	if name = path.Clean(name); !filepath.IsLocal(name) {
		return soulbox.Errorf(soulbox.Invalid, "dockerfile must be a path within the context, not %.200q", name)
	}
	in := bufio.NewReader(body)
	if _, err := in.Peek(1); err == io.EOF { // everything else is for TakeContext to meet
		return soulbox.Errorf(soulbox.Invalid, "there is nothing to build: the context is empty, and is to be a tar")
	}
	var err error
	if req.Recipe.Dockerfile != "" {
		req.Recipe.Context, err = n.registry.TakeContext(r.Context(), who.Team, in)
		return err
	}
	// The Dockerfile is picked out of what passes. The picker reads to the end
	// whatever happens, so that it never holds up the upload, and that never
	// leaves without it.
	out, tee := io.Pipe()
	type picked struct {
		text string
		err  error
	}
	done := make(chan picked, 1)
	go func() {
		text, err := pick(out, name)
		_, _ = io.Copy(io.Discard, out) // a pipe of ours
		done <- picked{text, err}
	}()
	req.Recipe.Context, err = n.registry.TakeContext(r.Context(), who.Team, io.TeeReader(in, tee))
	_ = tee.CloseWithError(err) // never fails; nil is the end
	p := <-done
	if err != nil {
		return err
	}
	req.Recipe.Dockerfile = p.text
	return p.err
}

// pick returns the text of the file called name in a tar, compressed with gzip
// or not. Of several it is the last, as for whoever unpacks it.
func pick(r io.Reader, name string) (string, error) {
	in := bufio.NewReader(r)
	var files *tar.Reader
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // too short is no tar, either
		z, err := gzip.NewReader(in)
		if err != nil {
			return "", notTar(err)
		}
		files = tar.NewReader(z)
	} else {
		files = tar.NewReader(in)
	}
	found, text := false, ""
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", notTar(err)
		}
		if path.Clean(h.Name) != name {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return "", soulbox.Errorf(soulbox.Invalid, "%.200q in the context is not a plain file", name)
		}
		b, err := io.ReadAll(io.LimitReader(files, maxDockerfile+1))
		if err != nil {
			return "", notTar(err)
		}
		found, text = true, string(b)
	}
	if !found {
		return "", soulbox.Errorf(soulbox.Invalid, "there is no file %.200q in the context; say in dockerfile where it is", name)
	}
	return text, checkDockerfile(text)
}

func notTar(err error) error {
	if soulbox.KindOf(err) != soulbox.Internal {
		return err
	}
	return soulbox.Hide(soulbox.Invalid, err, "the context is not a tar")
}

func checkDockerfile(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return soulbox.Errorf(soulbox.Invalid, "the Dockerfile is empty")
	case len(text) > maxDockerfile:
		return soulbox.Errorf(soulbox.TooLarge, "the Dockerfile is larger than %d KiB", maxDockerfile>>10)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return soulbox.Errorf(soulbox.Invalid, "the Dockerfile is not text in UTF-8")
	}
	return nil
}

// orderOf reads an order from a query. A name it does not know is a mistake
// there: nothing says that somebody newer means it.
func orderOf(query url.Values) (*order, error) {
	o := &order{Args: map[string]string{}}
	texts := map[string]*string{
		"bump": &o.Bump, "dockerfile": &o.Dockerfile, "target": &o.Target, "start": &o.Start, "ready": &o.Ready, "visibility": &o.Visibility,
	}
	numbers := map[string]func(int64){
		"cpus": func(n int64) { o.CPUs = int(n) }, "memory_mib": func(n int64) { o.MemoryMiB = n }, "disk_mib": func(n int64) { o.DiskMiB = n },
	}
	for name, values := range query {
		text, isText := texts[name]
		number, isNumber := numbers[name]
		if len(values) > 1 && name != "tag" && name != "arg" {
			return nil, soulbox.Errorf(soulbox.Invalid, "%.50q is in the query twice", name)
		}
		switch {
		case isText:
			*text = values[0]
		case isNumber:
			v, err := strconv.ParseInt(values[0], 10, 32)
			if err != nil {
				return nil, soulbox.Errorf(soulbox.Invalid, "%s must be a whole number, not %.50q", name, values[0])
			}
			number(v)
		case name == "isolation":
			o.Isolation = &values[0]
		case name == "tag":
			o.Tags = values
		case name == "arg":
			for _, s := range values {
				k, v, ok := strings.Cut(s, "=")
				if !ok {
					return nil, soulbox.Errorf(soulbox.Invalid, "arg must be NAME=VALUE, not %.100q", s)
				}
				o.Args[k] = v
			}
		case name == "no_cache":
			var err error
			if o.NoCache, err = strconv.ParseBool(values[0]); err != nil {
				return nil, soulbox.Errorf(soulbox.Invalid, "no_cache must be true or false, not %.50q", values[0])
			}
		default:
			return nil, soulbox.Errorf(soulbox.Invalid, "a build has no %.50q in its query", name)
		}
	}
	return o, nil
}

// noun returns what is asked for, or the first reason why it cannot be.
func (o *order) noun() (*soulbox.BuildRequest, error) {
	req := &soulbox.BuildRequest{
		Tags: o.Tags, Secrets: o.Secrets,
		Recipe: soulbox.Recipe{Target: o.Target, Args: o.Args, Start: o.Start, Ready: o.Ready, Force: o.NoCache},
		Size:   soulbox.Size{CPUs: o.CPUs, Memory: soulbox.Bytes(o.MemoryMiB) * soulbox.MiB, Disk: soulbox.Bytes(o.DiskMiB) * soulbox.MiB},
	}
	var err error
	if req.Bump, err = soulbox.ParseBump(o.Bump); err != nil {
		return nil, err
	}
	if req.Isolation, err = isolationOf(o.Isolation); err != nil {
		return nil, err
	}
	const most = 1 << 30 // MiB of anything; what is allowed is for others to say, this keeps sums in range
	switch {
	case o.CPUs < 0 || o.MemoryMiB < 0 || o.DiskMiB < 0 || o.CPUs > most || o.MemoryMiB > most || o.DiskMiB > most:
		return nil, soulbox.Errorf(soulbox.Invalid, "cpus, memory_mib and disk_mib must be from 1 to %d; left out or 0 they are as before", most)
	case len(o.Start) > maxCommand || len(o.Ready) > maxCommand:
		return nil, soulbox.Errorf(soulbox.Invalid, "start and ready may have at most %d bytes", maxCommand)
	case o.Ready != "" && o.Start == "":
		return nil, soulbox.Errorf(soulbox.Invalid, "ready says when what start has started can be used; there is no start")
	case len(o.Args) > maxArgs:
		return nil, soulbox.Errorf(soulbox.Invalid, "a build can have at most %d args", maxArgs)
	}
	for name := range o.Args {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, soulbox.Errorf(soulbox.Invalid, "%.100q is not the name of a build argument", name)
		}
	}
	for id := range o.Secrets {
		if id == "" || len(id) > 128 || strings.ContainsRune(id, 0) {
			return nil, soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a secret: those have 1 to 128 bytes", id)
		}
	}
	switch o.Visibility {
	case "":
	case "private", "team": // a key is a team's, so whoever has one is of the team
		req.Public = new(false)
	case "public":
		req.Public = new(true)
	default:
		return nil, soulbox.Errorf(soulbox.Invalid, "visibility must be private, team or public, not %.50q", o.Visibility)
	}
	for host, login := range o.Registries {
		if host == "" || login.Username == "" {
			return nil, soulbox.Errorf(soulbox.Invalid, "registries: each has a host, such as ghcr.io, and a username")
		}
		if req.Logins == nil {
			req.Logins = map[string]soulbox.Login{}
		}
		req.Logins[host] = soulbox.Login{User: login.Username, Password: login.Password}
	}
	return req, nil
}
