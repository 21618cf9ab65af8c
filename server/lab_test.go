package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

//go:embed testdata/hostile.py
var hostile string

// A laboratory is a sandbox with something in it that answers where a code
// interpreter would.
type laboratory struct {
	c        *client.Client
	url, key string
	sb       *client.Sandbox
}

func newLaboratory(t *testing.T, s *servertest.Server, o client.CreateOptions) *laboratory {
	t.Helper()
	l := &laboratory{c: connect(t, s)}
	l.url, l.key = s.Credentials(t)
	o.Timeout = time.Hour
	var err error
	if l.sb, err = l.c.Sandboxes.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := l.sb.WriteFile(t.Context(), "/tmp/hostile.py", strings.NewReader(hostile)); err != nil {
		t.Fatal(err)
	}
	l.run(t, "setsid python3 /tmp/hostile.py >/tmp/said 2>&1 & until grep -q ready /tmp/said; do sleep 0.1; done")
	return l
}

func (l *laboratory) run(t *testing.T, command string) string {
	t.Helper()
	res, err := l.sb.Run(t.Context(), command, client.RunOptions{})
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", command, err, res.Stdout, res.Stderr)
	}
	return res.Stdout
}

// ask asks the server and returns all of its answer.
func (l *laboratory) ask(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, l.url+"/v1/sandboxes/"+l.sb.ID+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	req.Header.Set("X-API-KEY", l.key)
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return &http.Response{}, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
	}
	return res, string(b)
}

// TestLabHostile asks what answers as no code interpreter does, in a real
// sandbox, and looks what of that reaches a client, and what it takes of the
// server.
func TestLabHostile(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	l := newLaboratory(t, s, client.CreateOptions{})
	const unexpected, broken = "which nobody expects", "stopped in the middle of its answer"
	var wg sync.WaitGroup
	for mode, want := range map[string]struct {
		status int
		text   string
	}{
		"good":     {200, `{"path":"good.ipynb","revision":"abc"}`},
		"header":   {503, "does not answer as it should"},
		"body":     {413, "more than 64 MiB"},
		"large":    {413, "more than 64 MiB"},
		"wrong":    {503, "is not what it should be"},
		"twice":    {503, "is not what it should be"},
		"list":     {503, "is not what it should be"},
		"bytes":    {503, "is not what it should be"},
		"empty":    {503, "is not what it should be"},
		"cut":      {503, broken},
		"redirect": {503, "status 302, " + unexpected},
		"created":  {503, "status 201, " + unexpected},
		"teapot":   {503, "status 418, " + unexpected},
		"login":    {503, "status 401, " + unexpected},
		"early":    {503, "does not answer as it should"},
		"switch":   {503, "status 101, " + unexpected},
		"bomb":     {503, "is compressed"},
		"noise":    {503, "does not answer as it should"},
		"nothing":  {503, "does not answer as it should"},
		"stale":    {409, `"message":"somebody  [31mwas   faster","revision":"0123abc"`},
		"longword": {400, strings.Repeat("x", 1000) + "…"},
		"liar":     {409, "does not say why"},
		"fails":    {503, "says: no disk"},
		"old":      {409, "cannot do this; make one of the template code-interpreter-v1"},
		"drip":     {503, "did not answer within 1m0s"},
	} {
		wg.Go(func() {
			res, body := l.ask(t, "GET", "/notebooks/"+mode, "")
			if res.StatusCode != want.status || !strings.Contains(body, want.text) || len(body) > 4096 {
				t.Errorf("%s: %d %.300s, want %d and %q", mode, res.StatusCode, body, want.status, want.text)
			}
			if kind := res.Header.Get("Content-Type"); kind != "application/json" {
				t.Errorf("%s: the answer is of type %q", mode, kind)
			}
			for name := range res.Header {
				switch name {
				case "Content-Type", "Content-Length", "Date", "X-Request-Id", "X-Content-Type-Options", "Content-Security-Policy":
				default:
					t.Errorf("%s: the answer has the header %s: %q", mode, name, res.Header[name])
				}
			}
		})
	}
	for mode, want := range map[string]string{
		"good":    `{"type":"end","status":"ok","revision":"abc"}`,
		"line":    `{"type":"error","message":"one line of what the sandbox's code interpreter says has more than 16 MiB"}`,
		"wrong":   "is not what it should be",
		"list":    "is not what it should be",
		"untyped": "is not what it should be",
		"cut":     `{"type":"error","message":"the sandbox's code interpreter ` + broken + `"}`,
		"flood":   "says more than 256 MiB",
		"drip":    "was silent for 30s",
	} {
		wg.Go(func() {
			res, body := l.ask(t, "POST", "/notebooks/"+mode+"/run", "{}")
			lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
			last := lines[len(lines)-1]
			for _, line := range lines {
				var v struct{ Type string }
				if json.Unmarshal([]byte(line), &v) != nil || v.Type == "" {
					if mode != "line" {
						t.Errorf("stream %s has the line %.200s", mode, line)
					}
				}
			}
			if mode == "line" { // nothing had begun
				if res.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("stream %s: %d %.300s", mode, res.StatusCode, body)
				}
				return
			}
			if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/x-ndjson" || !strings.Contains(last, want) {
				t.Errorf("stream %s: %d, last line %.300s, want %q", mode, res.StatusCode, last, want)
			}
		})
	}
	wg.Wait()
	if used := peak(t, s.PID()); used > 1500 {
		t.Errorf("the server took %d MiB of memory for this", used)
	} else {
		t.Logf("the server took at most %d MiB of memory", used)
	}

	// A client that goes ends what it asked for.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for e, err := range l.c.Notebooks.Run(ctx, l.sb.ID, "forever", client.RunCellsOptions{}) {
		if err != nil || e.Type != "cell" {
			t.Fatalf("the stream begins with %+v, %v", e, err)
		}
		break
	}
	l.run(t, "for i in $(seq 100); do grep -q forever /tmp/left && exit; sleep 0.1; done; cat /tmp/left; exit 1")

	_, err := l.c.Notebooks.Get(t.Context(), l.sb.ID, "stale")
	if stale, ok := errors.AsType[*soulbox.OutdatedError](err); !ok || stale.Revision != "0123abc" || soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("the client says %#v", err)
	}
	if err := l.sb.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.c.Notebooks.Get(t.Context(), l.sb.ID, "good"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("after its end: %v", err)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// peak is the most memory that a process has had, in MiB.
func peak(t *testing.T, pid int) (mib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(rest, &mib); !ok || err != nil {
		t.Fatalf("VmHWM: %v in %s", err, b)
	}
	return mib >> 10
}

// TestLabStates asks sandboxes that have no code interpreter, are paused, or do
// not exist, and asks badly.
func TestLabStates(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	l := newLaboratory(t, s, client.CreateOptions{Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true}})
	good := func(what string) {
		t.Helper()
		if n, err := l.c.Notebooks.Get(t.Context(), l.sb.ID, "good"); err != nil || n.Revision != "abc" {
			t.Fatalf("%s: %+v, %v", what, n, err)
		}
	}
	good("at first")
	if err := l.c.Sandboxes.Pause(t.Context(), l.sb.ID, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	good("after a pause that traffic ends")

	bare := create(t, l.c, time.Hour)
	_, err := l.c.Notebooks.List(t.Context(), bare.ID)
	if soulbox.KindOf(err) != soulbox.Conflict || !strings.Contains(err.Error(), "has no code interpreter; make one of the template code-interpreter-v1 or data-science") {
		t.Errorf("without a code interpreter: %v", err)
	}
	if err := l.c.Sandboxes.Pause(t.Context(), bare.ID, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = l.c.Notebooks.List(t.Context(), bare.ID); soulbox.KindOf(err) != soulbox.Conflict || !strings.Contains(err.Error(), "is not resumed by traffic") {
		t.Errorf("while it is paused: %v", err)
	}
	if _, err = l.c.Notebooks.List(t.Context(), "inone0000000000000000"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("of a sandbox that is none: %v", err)
	}

	asked := l.run(t, "cat /tmp/asked")
	deep := `{"code":"1","datasets":[{"name":"a","content":""}],"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/notebooks/%2e%2e%2fetc", "", 400, "is not a notebook"},
		{"GET", "/notebooks/a%00b", "", 400, "is not a notebook"},
		{"GET", "/notebooks/%2Fetc%2Fpasswd", "", 400, "is not a notebook"},
		{"GET", "/notebooks/" + strings.Repeat("a", 2000), "", 400, "is not a notebook"},
		{"POST", "/notebooks", "", 400, "needs a body"},
		{"POST", "/notebooks", "[]", 400, "must be a JSON object"},
		{"POST", "/notebooks", `{"path":"a","path":"b"}`, 400, "twice"},
		{"POST", "/notebooks/a/run", `{"x"`, 400, "not valid JSON"},
		{"PUT", "/notebooks/a", `{"content":"` + strings.Repeat("x", 17<<20) + `"}`, 413, "too large"},
		{"DELETE", "/notebooks/a?revision=../x", "", 400, "revision"},
		{"PATCH", "/notebooks/a/cells/" + strings.Repeat("c", 65), "{}", 400, "id of a cell"},
		{"GET", "/notebooks/a/export?format=pdf", "", 400, "ipynb, html or script"},
		{"GET", "/environments/Default/packages", "", 400, "name of an environment"},
		{"POST", "/environments/" + strings.Repeat("e", 33) + "/packages", "{}", 400, "name of an environment"},
		{"POST", "/notebooks/a/jump", "", 404, "there is no"},
		{"POST", "/analyze", "{", 400, "not valid JSON"},
		{"POST", "/analyze", deep, 400, "nested"},
		{"POST", "/analyze", `{"code":"1","datasets":{}}`, 400, "datasets must be an array"},
		{"POST", "/analyze", `{"code":"1","datasets":[1]}`, 400, "datasets[0] must be an object"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a"}]}`, 400, "it has 0"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","path":"x","url":"y"}]}`, 400, "it has 2"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","content":"%%%"}]}`, 400, "base64"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"../a","content":"YQ=="}]}`, 400, "name must be a variable"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","content":"YQ==","format":"xml"}]}`, 400, "format must be"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","sandbox":"i1"}]}`, 400, "belong together"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","sandbox":"../x","file":"f"}]}`, 400, "id of a sandbox"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","sandbox":"inone0000000000000000","file":"f"}]}`, 404, "inone"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","sandbox":"` + l.sb.ID + `","file":"/none"}]}`, 404, "does not exist"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","s3":{"bucket":"B","key":"k","region":"r"}}]}`, 400, "name of a bucket"},
		{"POST", "/analyze", `{"code":"1","datasets":[{"name":"a","s3":{"bucket":"abc","key":"k","region":"r","endpoint":"ftp://x","access_key_id":"a","secret_access_key":"b"}}]}`, 400, "s3.endpoint"},
		{"POST", "/analyze", `{"code":"1","timeout_seconds":0}`, 400, "timeout_seconds"},
		{"POST", "/analyze", `{"code":"1","timeout_seconds":86400}`, 400, "timeout_seconds"},
		{"POST", "/analyze", `{"code":"1","datasets":[` + strings.Repeat(`{"name":"a","path":"x"},`, 32) + `{"name":"a","path":"x"}]}`, 400, "at most 32"},
		{"POST", "/visualize", `{"kind":"bar","dataset":7}`, 400, "dataset must be an object"},
	} {
		res, body := l.ask(t, tt.method, tt.path, tt.body)
		if res.StatusCode != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %.60s %.80s: %d %.300s, want %d %q", tt.method, tt.path, tt.body, res.StatusCode, body, tt.status, tt.want)
		}
	}
	if now := l.run(t, "cat /tmp/asked"); now != asked {
		t.Errorf("these reached the sandbox: %s", strings.TrimPrefix(now, asked))
	}
	if left := l.run(t, "find ~/.cache -type f 2>/dev/null; true"); left != "" {
		t.Errorf("data was left: %s", left)
	}
}

// TestLabData brings data from everywhere, and looks that it is all there while
// it is needed, and not afterwards.
func TestLabData(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	l := newLaboratory(t, s, client.CreateOptions{})
	other := create(t, l.c, time.Hour)
	const size = 40 << 20
	if _, err := other.Run(t.Context(), fmt.Sprintf("head -c %d /dev/urandom >big.parquet; sha256sum big.parquet >sum", size), client.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	var sum bytes.Buffer
	if _, err := other.ReadFile(t.Context(), "sum", &sum); err != nil {
		t.Fatal(err)
	}
	l.run(t, "mkdir -p ~/.cache/soulbox/datasets/1000-old ~/.cache/soulbox/datasets/mine; echo 1 >~/here.csv")
	small := []byte("a,b\n1,2\n")
	a, err := l.c.Sandboxes.Analyze(t.Context(), l.sb.ID, client.AnalyzeOptions{Code: "print(1)", Datasets: []client.Dataset{
		{Name: "sent", Content: small, Format: "csv", Options: map[string]any{"sep": ";"}},
		{Name: "big", Sandbox: other.ID, File: "big.parquet"},
		{Name: "here", Path: "/home/user/here.csv"},
		{Name: "far", URL: "https://example.com/a.csv"},
		{Name: "object", S3: &client.S3Object{Bucket: "my-bucket", Key: "a b/ü.csv", Region: "eu-central-1", Endpoint: "http://127.0.0.1:9", AccessKeyID: "AKID", SecretAccessKey: "hush-hush"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if a.Logs.Stdout != "print(1)" || len(a.Data) != 5 {
		t.Fatalf("%+v", a)
	}
	_, raw := l.ask(t, "POST", "/analyze", `{"code":"2","datasets":[{"name":"sent","content":"`+base64.StdEncoding.EncodeToString(small)+`","format":"csv","options":{"sep":";"}},`+
		`{"name":"big","sandbox":"`+other.ID+`","file":"big.parquet"},{"name":"object","s3":{"bucket":"my-bucket","key":"a b/ü.csv","region":"eu-central-1","endpoint":"http://127.0.0.1:9","access_key_id":"AKID","secret_access_key":"hush-hush"}}]}`)
	var got struct {
		Data []struct {
			Name, Path, URL, SHA256, Format string
			Size                            int64
			UID, Mode                       int
			Options                         map[string]string
			Content, Sandbox, File, S3      json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(raw), &got); err != nil || len(got.Data) != 3 {
		t.Fatalf("%s: %v", raw, err)
	}
	if strings.Contains(raw, "hush-hush") {
		t.Errorf("the sandbox was told the secret: %s", raw)
	}
	sent, big, object := got.Data[0], got.Data[1], got.Data[2]
	const folder = "/home/user/.cache/soulbox/datasets/"
	if sent.SHA256 != fmt.Sprintf("%x", sha256.Sum256(small)) || !strings.HasPrefix(sent.Path, folder) || !strings.HasSuffix(sent.Path, "/sent.csv") || sent.Content != nil || sent.Options["sep"] != ";" || sent.Format != "csv" {
		t.Errorf("what was sent: %+v", sent)
	}
	if !strings.HasPrefix(sum.String(), big.SHA256+" ") || big.Size != size || !strings.HasSuffix(big.Path, "/big.parquet") || big.Sandbox != nil || big.File != nil {
		t.Errorf("what another sandbox has: %+v, want %s", big, &sum)
	}
	if uid := strings.TrimSpace(l.run(t, "id -u")); fmt.Sprint(sent.UID) != uid || fmt.Sprint(big.UID) != uid {
		t.Errorf("the files belong to %d and %d, want %s", sent.UID, big.UID, uid)
	}
	if !strings.HasPrefix(object.URL, "http://127.0.0.1:9/my-bucket/a%20b/%C3%BC.csv?") || !strings.Contains(object.URL, "X-Amz-Expires=900") || !strings.Contains(object.URL, "X-Amz-Signature=") || object.S3 != nil {
		t.Errorf("the object: %+v", object)
	}
	if left := l.run(t, "ls ~/.cache/soulbox/datasets"); left != "mine\n" {
		t.Errorf("in the folder for data is left: %q", left)
	}
	// More than the sandbox has room for.
	l.run(t, "fallocate -l $(($(df --output=avail -k ~ | tail -1) - 20000))K ~/fill")
	_, err = l.c.Sandboxes.Analyze(t.Context(), l.sb.ID, client.AnalyzeOptions{Code: "1", Datasets: []client.Dataset{{Name: "big", Sandbox: other.ID, File: "big.parquet"}}})
	if soulbox.KindOf(err) != soulbox.Exhausted || !strings.Contains(err.Error(), "cannot be written into the sandbox") {
		t.Errorf("on a full disk: %v", err)
	}
	if left := l.run(t, "rm ~/fill; ls ~/.cache/soulbox/datasets"); left != "mine\n" {
		t.Errorf("after that is left: %q", left)
	}
}
