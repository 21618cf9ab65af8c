package filesystem_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

type response struct {
	*http.Response
	body string
}

func do(t *testing.T, f *fixture, method, path string, body io.Reader, header ...string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp, string(data)}
}

const octets = "application/octet-stream"

func upload(t *testing.T, f *fixture, path, content string, header ...string) response {
	t.Helper()
	return do(t, f, http.MethodPost, "/files?path="+url.QueryEscape(path), strings.NewReader(content), append([]string{"Content-Type", octets}, header...)...)
}

func download(t *testing.T, f *fixture, path string, header ...string) response {
	t.Helper()
	return do(t, f, http.MethodGet, "/files?path="+url.QueryEscape(path), nil, header...)
}

func wantFile(t *testing.T, path, content string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s holds %d bytes %.40q, %v; want %d bytes %.40q", path, len(got), got, err, len(content), content)
	}
}

func zip(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

func TestUpload(t *testing.T) {
	f := serve(t)
	big := rand.Text() + strings.Repeat("0123456789abcdef", 100_000) // several buffers
	for name, content := range map[string]string{"empty": "", "small": "hello", "deep/er/file": "x", "big": big, "buffer": big[:256<<10]} {
		resp := upload(t, f, name, content)
		want := fmt.Sprintf(`[{"name":"%s","path":"%s/%s","type":"file"}]`+"\n", name[strings.LastIndex(name, "/")+1:], f.home, name)
		if resp.StatusCode != http.StatusOK || resp.body != want {
			t.Errorf("%s: %s %s, want %s", name, resp.Status, resp.body, want)
		}
		path := f.home + "/" + name
		wantFile(t, path, content)
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != testUID || st.Gid != testUID || fi.Mode() != 0o644 {
			t.Errorf("%s: owner %d:%d, mode %v", name, st.Uid, st.Gid, fi.Mode())
		}
		got := download(t, f, name)
		if got.body != content || got.Header.Get("Content-Length") != fmt.Sprint(len(content)) {
			t.Errorf("%s: came back as %d bytes, Content-Length %s", name, len(got.body), got.Header.Get("Content-Length"))
		}
	}
	// Over something: same inode, new owner, mode kept.
	path := f.home + "/small"
	before, _ := os.Stat(path)
	for _, err := range []error{os.Chown(path, 0, 0), os.Chmod(path, 0o600), os.Symlink("small", f.home+"/link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	upload(t, f, "link", "via link")
	wantFile(t, path, "via link")
	after, _ := os.Stat(path)
	if !os.SameFile(before, after) || after.Mode() != 0o600 || after.Sys().(*syscall.Stat_t).Uid != testUID {
		t.Errorf("file was %v, is %v", before, after)
	}
	if resp := upload(t, f, "gz", zip(t, "plain"), "Content-Encoding", "gzip"); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status, resp.body)
	}
	wantFile(t, f.home+"/gz", "plain")
}

func TestUploadForm(t *testing.T) {
	f := serve(t)
	form := func(parts ...string) (io.Reader, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for i := 0; i < len(parts); i += 3 {
			h := textproto.MIMEHeader{}
			disposition := fmt.Sprintf(`form-data; name=%q`, parts[i])
			if parts[i+1] != "" {
				disposition += fmt.Sprintf(`; filename=%q`, parts[i+1])
			}
			h.Set("Content-Disposition", disposition)
			p, err := w.CreatePart(h)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(p, parts[i+2])
		}
		w.Close()
		return &b, w.FormDataContentType()
	}
	post := func(query string, parts ...string) response {
		body, contentType := form(parts...)
		return do(t, f, http.MethodPost, "/files"+query, body, "Content-Type", contentType)
	}
	resp := post("", "file", "one", "1", "other", "skip", "x", "file", f.home+"/sub/two", "2")
	var got []struct{ Name, Path, Type string }
	if err := json.Unmarshal([]byte(resp.body), &got); err != nil || len(got) != 2 || got[1].Path != f.home+"/sub/two" || got[1].Name != "two" {
		t.Fatalf("%s %s", resp.Status, resp.body)
	}
	wantFile(t, f.home+"/one", "1")
	wantFile(t, f.home+"/sub/two", "2")
	noFile(t, f.home+"/skip")

	if resp := post("?path=three", "file", "", "3"); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status, resp.body)
	}
	wantFile(t, f.home+"/three", "3")
	if resp := post("?username=root&path="+url.QueryEscape(f.home+"/rooted"), "file", "x", "r"); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status, resp.body)
	}
	if fi, err := os.Stat(f.home + "/rooted"); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%v, %v", fi, err)
	}
	if resp := post("", "file", "same", "1", "file", "same", "2"); resp.StatusCode != http.StatusBadRequest || !strings.Contains(resp.body, "multiple files to the same path") {
		t.Error(resp.Status, resp.body)
	}
	wantFile(t, f.home+"/same", "1")
	if resp := post("", "file", "", "1"); resp.StatusCode != http.StatusBadRequest || !strings.Contains(resp.body, "filename not found") {
		t.Error(resp.Status, resp.body)
	}
	if resp := post("", "other", "", "1"); resp.StatusCode != http.StatusOK || resp.body != "[]\n" {
		t.Error(resp.Status, resp.body)
	}
}

func TestUploadRefused(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/dir/file", "old")
	if err := syscall.Mkfifo(f.home+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, query, contentType, body string
		header                         []string
		status                         int
		text                           string
	}{
		{"no path", "", octets, "x", nil, 400, "path query parameter is required"},
		{"directory", "?path=dir", octets, "x", nil, 400, "path is a directory"},
		{"below a file", "?path=dir/file/x", octets, "x", nil, 400, "path is a file"},
		{"NUL", "?path=a%00b", octets, "x", nil, 400, "NUL"},
		{"long name", "?path=" + strings.Repeat("x", 300), octets, "x", nil, 400, "too long"},
		{"pipe without a reader", "?path=pipe", octets, "x", nil, 400, "no such device or address"},
		{"unknown user", "?path=new&username=ghost", octets, "x", nil, 401, "error looking up user 'ghost'"},
		{"content type", "?path=new", "text/plain", "x", nil, 400, "unsupported content type: text/plain"},
		{"no content type", "?path=new", "", "x", nil, 400, "unsupported content type"},
		{"no boundary", "?path=new", "multipart/form-data", "x", nil, 400, "boundary"},
		{"broken form", "?path=new", "multipart/form-data; boundary=b", "--b\r\nrubbish", nil, 400, "error reading form"},
		{"cut form", "?path=new", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=file\r\n\r\nhalf", nil, 400, "unexpected end"},
		{"encoding", "?path=new", octets, "x", []string{"Content-Encoding", "br"}, 400, "unsupported Content-Encoding"},
		{"not gzip", "?path=new", octets, "x", []string{"Content-Encoding", "gzip"}, 400, "decompressing"},
		{"cut gzip", "?path=new", octets, zip(t, strings.Repeat("x", 1000))[:20], []string{"Content-Encoding", "gzip"}, 400, "unexpected end"},
		{"metadata value", "?path=new", octets, "x", []string{"X-Metadata-A", "caf\u00e9"}, 400, "non-printable"},
		{"metadata key", "?path=new", octets, "x", []string{"X-Metadata-" + strings.Repeat("k", 247), "v"}, 400, "exceeds 246 bytes"},
		{"metadata size", "?path=new", octets, "x", []string{"X-Metadata-A", strings.Repeat("v", 4090)}, 400, "exceeds 4096 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := do(t, f, http.MethodPost, "/files"+tt.query, strings.NewReader(tt.body), append(tt.header, "Content-Type", tt.contentType)...)
			var got struct {
				Code    int
				Message string
			}
			if err := json.Unmarshal([]byte(resp.body), &got); err != nil {
				t.Fatalf("%s %q: %v", resp.Status, resp.body, err)
			}
			if resp.StatusCode != tt.status || got.Code != tt.status || !strings.Contains(got.Message, tt.text) {
				t.Errorf("%s %+v, want %d with %q", resp.Status, got, tt.status, tt.text)
			}
			noFile(t, f.home+"/new")
		})
	}
	wantFile(t, f.home+"/dir/file", "old")
}

// An upload that breaks off leaves old content alone if it was short, and no
// half of a file in any case.
func TestUploadCutOff(t *testing.T) {
	f := serve(t)
	send := func(path string, promised, sent int) {
		t.Helper()
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /files?path=%s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, octets, promised)
		conn.Write(bytes.Repeat([]byte("n"), sent))
		conn.(*net.TCPConn).CloseWrite()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s, want 400", path, resp.Status)
		}
	}
	write(t, f.home+"/short", "old")
	write(t, f.home+"/long", "old")
	send("short", 1000, 500)
	send("long", 2<<20, 1<<20)
	send("new-short", 1000, 500)
	send("new-long", 2<<20, 1<<20)
	wantFile(t, f.home+"/short", "old")
	wantFile(t, f.home+"/long", "")
	noFile(t, f.home+"/new-short")
	noFile(t, f.home+"/new-long")
}

func TestFullDisk(t *testing.T) {
	f := serve(t)
	disk := f.home + "/disk"
	if err := os.Mkdir(disk, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	content := strings.Repeat("x", 3<<20)
	if resp := upload(t, f, "disk/new", content); resp.StatusCode != http.StatusInsufficientStorage || !strings.Contains(resp.body, "not enough disk space") {
		t.Error(resp.Status, resp.body)
	}
	noFile(t, disk+"/new")
	write(t, f.home+"/a", content)
	write(t, f.home+"/b", content)
	body := fmt.Sprintf(`{"source_paths":["a","b"],"destination":%q}`, disk+"/joined")
	if resp := do(t, f, http.MethodPost, "/files/compose", strings.NewReader(body)); resp.StatusCode != http.StatusInsufficientStorage {
		t.Error(resp.Status, resp.body)
	}
	wantFile(t, f.home+"/a", content)
	if left, _ := os.ReadDir(disk); len(left) != 0 {
		t.Errorf("left on the disk: %v", left)
	}
}

func TestDownload(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/f.txt", "0123456789")
	write(t, f.home+"/empty", "")
	if err := os.Mkdir(f.home+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(f.home+"/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	modified := download(t, f, "f.txt").Header.Get("Last-Modified")
	tests := []struct {
		name, path string
		header     []string
		status     int
		body       string
		want       map[string]string
	}{
		{"whole", "f.txt", nil, 200, "0123456789", map[string]string{
			"Content-Length": "10", "Vary": "Accept-Encoding", "Content-Disposition": "inline; filename=f.txt", "Content-Encoding": "",
		}},
		{"no size but content", "/proc/sys/kernel/ostype", nil, 200, "Linux\n", map[string]string{"Content-Length": "6"}},
		{"no size and long", "/proc/kallsyms", []string{"Range", "bytes=0-3"}, 200, "", nil},
		{"empty", "empty", nil, 200, "", map[string]string{"Content-Length": "0"}},
		{"range", "f.txt", []string{"Range", "bytes=2-4"}, 206, "234", map[string]string{"Content-Range": "bytes 2-4/10"}},
		{"suffix", "f.txt", []string{"Range", "bytes=-3"}, 206, "789", nil},
		{"range with gzip", "f.txt", []string{"Range", "bytes=0-0", "Accept-Encoding", "gzip"}, 206, "0", map[string]string{"Content-Encoding": ""}},
		{"range beyond", "f.txt", []string{"Range", "bytes=99-"}, 416, "", nil},
		{"huge range", "f.txt", []string{"Range", "bytes=0-99999999999999999999"}, 416, "", nil},
		{"negative range", "f.txt", []string{"Range", "bytes=-5--1"}, 416, "", nil},
		{"not modified", "f.txt", []string{"If-Modified-Since", modified}, 304, "", nil},
		{"a library's list", "f.txt", []string{"Accept-Encoding", "gzip, deflate, br"}, 200, "0123456789", map[string]string{"Content-Encoding": ""}},
		{"gzip refused", "f.txt", []string{"Accept-Encoding", "gzip;q=0"}, 200, "0123456789", map[string]string{"Content-Encoding": ""}},
		{"nothing acceptable", "f.txt", []string{"Accept-Encoding", "br, identity;q=0"}, 406, "", nil},
		{"range without identity", "f.txt", []string{"Range", "bytes=0-0", "Accept-Encoding", "gzip, *;q=0"}, 406, "", nil},
		{"missing", "none", nil, 404, fmt.Sprintf("{\"code\":404,\"message\":\"path '%s/none' does not exist\"}\n", f.home), nil},
		{"below a file", "f.txt/x", nil, 404, "", nil},
		{"directory", "dir", nil, 400, "", nil},
		{"pipe", "pipe", nil, 400, "", nil},
		{"NUL", "a\x00", nil, 400, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := download(t, f, tt.path, tt.header...)
			if got.StatusCode != tt.status || tt.body != "" && got.body != tt.body {
				t.Errorf("%s %q, want %d %q", got.Status, got.body, tt.status, tt.body)
			}
			for name, value := range tt.want {
				if got.Header.Get(name) != value {
					t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
				}
			}
		})
	}
	for _, accept := range []string{"gzip", "gzip, identity;q=0", "*, identity;q=0", "gzip;q=0.8, br;q=0.1"} {
		got := download(t, f, "f.txt", "Accept-Encoding", accept)
		if got.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: %s %v", accept, got.Status, got.Header)
			continue
		}
		z, err := gzip.NewReader(strings.NewReader(got.body))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(z); err != nil || string(plain) != "0123456789" {
			t.Errorf("%s: %q, %v", accept, plain, err)
		}
	}
	if got := do(t, f, http.MethodGet, "/files?path=f.txt&username=ghost", nil); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("unknown user: %s", got.Status)
	}
}

func TestMetadata(t *testing.T) {
	f := serve(t)
	stat := func(path string) map[string]string {
		t.Helper()
		got, err := call[entryResponse](t, f, "/Stat", object{"path": path})
		if err != nil {
			t.Fatal(err)
		}
		return got.Entry.Metadata
	}
	resp := upload(t, f, "m", "x", "X-Metadata-Author", "me", "X-Metadata-Other-Key", "a b")
	if want := fmt.Sprintf(`[{"metadata":{"author":"me","other-key":"a b"},"name":"m","path":"%s/m","type":"file"}]`+"\n", f.home); resp.body != want {
		t.Errorf("%s, want %s", resp.body, want)
	}
	if m := stat("m"); len(m) != 2 || m["author"] != "me" {
		t.Errorf("metadata = %v", m)
	}
	// Programs may set it, too, even to what cannot be sent.
	for _, err := range []error{
		syscall.Setxattr(f.home+"/m", "user.e2b.program", []byte("p"), 0),
		syscall.Setxattr(f.home+"/m", "user.e2b.binary", []byte{0xff}, 0),
		syscall.Setxattr(f.home+"/m", "user.foreign", []byte("x"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if m := stat("m"); len(m) != 3 || m["program"] != "p" {
		t.Errorf("metadata = %v", m)
	}
	if got, err := call[entryResponse](t, f, "/Move", object{"source": "m", "destination": "m2"}); err != nil || got.Entry.Metadata["author"] != "me" {
		t.Errorf("moved: %+v, %v", got, err)
	}
	upload(t, f, "m2", "x", "X-Metadata-Author", "you")
	if m := stat("m2"); len(m) != 1 || m["author"] != "you" {
		t.Errorf("metadata after the second upload = %v", m)
	}
	if resp := upload(t, f, "m2", "x"); strings.Contains(resp.body, "metadata") || stat("m2") != nil {
		t.Errorf("metadata after the third upload: %s, %v", resp.body, stat("m2"))
	}
}

// On a file system without attributes the agent remembers by itself.
func TestMetadataWithoutAttributes(t *testing.T) {
	f := serve(t)
	disk := f.home + "/disk"
	if err := os.Mkdir(disk, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("ramfs", disk, "ramfs", 0, ""); err != nil {
		t.Fatalf("mount ramfs, the file system without attributes: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	if resp := upload(t, f, "disk/m", "x", "X-Metadata-A", "1"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, resp.body)
	}
	if got, err := call[entryResponse](t, f, "/Move", object{"source": "disk/m", "destination": "disk/n"}); err != nil || got.Entry.Metadata["a"] != "1" {
		t.Errorf("moved: %+v, %v", got, err)
	}
	upload(t, f, "disk/n", "x")
	if got, err := call[entryResponse](t, f, "/Stat", object{"path": "disk/n"}); err != nil || got.Entry.Metadata != nil {
		t.Errorf("after another upload: %+v, %v", got, err)
	}
}

func TestCompose(t *testing.T) {
	f := serve(t)
	compose := func(body string) response {
		t.Helper()
		return do(t, f, http.MethodPost, "/files/compose", strings.NewReader(body), "Content-Type", "application/json")
	}
	write(t, f.home+"/1", "one ")
	write(t, f.home+"/2", "two")
	write(t, f.home+"/d/keep", "old")
	for body, status := range map[string]int{
		`{"source_paths":[],"destination":"x"}`:                         400,
		`{"source_paths":["1"]}`:                                        400,
		`{"source_paths":["1"],"destination":"1"}`:                      400,
		`{"source_paths":["1"],"destination":"d"}`:                      400,
		`{"source_paths":["d"],"destination":"x"}`:                      400,
		`{"source_paths":["1"],"destination":"2/x"}`:                    400,
		`{"source_paths":["1","none"],"destination":"x"}`:               404,
		`{"source_paths":["1"],"destination":"x","username":"ghost"}`:   401,
		`{"source_paths":["1"],"destination":"a\u0000b"}`:               400,
		`{"source_paths":`:                                              400,
		`{"source_paths":["` + strings.Repeat("x", 2<<20) + `"]}`:       400,
		`{"source_paths":["1\u0000"],"destination":"x"}`:                400,
		`{"source_paths":["1"],"destination":"~nobody/x"}`:              400,
		`{"source_paths":["` + strings.Repeat(`1","`, 20_000) + `1"]}`:  400,
		`{"source_paths":["/dev/null"],"destination":"x"}`:              400,
		`{"source_paths":["1"],"destination":"` + "x" + `","extra":[]x`: 400,
	} {
		if resp := compose(body); resp.StatusCode != status {
			t.Errorf("%.80s: %s %s, want %d", body, resp.Status, resp.body, status)
		}
	}
	wantFile(t, f.home+"/1", "one ")
	noFile(t, f.home+"/x")
	resp := compose(`{"source_paths":["1","2"],"destination":"d/e/all"}`)
	if want := fmt.Sprintf(`{"name":"all","path":"%s/d/e/all","type":"file"}`+"\n", f.home); resp.StatusCode != http.StatusOK || resp.body != want {
		t.Errorf("%s %s, want %s", resp.Status, resp.body, want)
	}
	wantFile(t, f.home+"/d/e/all", "one two")
	noFile(t, f.home+"/1")
	noFile(t, f.home+"/2")
}

// Reading what is being written ends; a client that leaves does not harm.
func TestDownloadClientLeaves(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/big", strings.Repeat("x", 64<<20))
	for _, accept := range []string{"identity", "gzip"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/files?path=big", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", accept)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
		cancel()
	}
	if resp := download(t, f, "big", "Range", "bytes=0-3"); resp.body != "xxxx" {
		t.Errorf("afterwards: %s %q", resp.Status, resp.body)
	}
}
