package template_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

var aHash = strings.Repeat("0a", 32)

// pack makes a tar of heads; the content of a file is its name.
func pack(t testing.TB, heads ...tar.Header) []byte {
	t.Helper()
	return packWith(t, "", heads...)
}

// packWith is pack with a content for all files, unless it is empty.
func packWith(t testing.TB, content string, heads ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range heads {
		text := content
		if text == "" {
			text = h.Name
		}
		if h.Typeflag != tar.TypeReg {
			text = ""
		}
		h.Size = int64(len(text))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_600_000_000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files makes a tar of so many files of a size.
func files(t testing.TB, n, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func head(kind byte, name string, mode int64, link string) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Mode: mode, Linkname: link, Uid: 1000, Gid: 1000}
}

// uploads returns what is in the folder of ours' uploads.
func (w *world) uploads(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(w.dir, "builds", "uploads", "t-team-1"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// listing returns what is below a folder, with modes and what links lead to.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%v %s", fi.Mode(), name)
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q %d", b, fi.ModTime().Unix())
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUpload(t *testing.T) {
	heads := []tar.Header{
		head(tar.TypeDir, "./", 0o755, ""),
		head(tar.TypeDir, "app/", 0o500, ""),
		head(tar.TypeReg, "app/main.py", 0o640, ""),
		head(tar.TypeReg, "deep/er/file", 0o755, ""),
		head(tar.TypeSymlink, "app/link", 0o777, "../deep/er"),
		head(tar.TypeSymlink, "dangling", 0o777, "nowhere"),
		head(tar.TypeSymlink, "machine", 0o777, "/etc/passwd"), // of whichever: it is copied as it is
		head(tar.TypeSymlink, "above", 0o777, "../../etc"),
		head(tar.TypeLink, "hard", 0o644, "app/main.py"),
		head(tar.TypeReg, "/root/absolute", 0o644, ""), // starts at the root of the upload
		head(tar.TypeReg, "sudo", 0o6755, ""),
		head(tar.TypeReg, "twice", 0o600, ""),
		head(tar.TypeReg, "twice", 0o644, ""),
	}
	want := []string{
		"Lrwxrwxrwx above -> ../../etc",
		"drwx------ app", // ours must be able to make files in it
		"Lrwxrwxrwx app/link -> ../deep/er",
		`-rw-r----- app/main.py "app/main.py" 1600000000`,
		"Lrwxrwxrwx dangling -> nowhere",
		"drwxr-xr-x deep",
		"drwxr-xr-x deep/er",
		`-rwxr-xr-x deep/er/file "deep/er/file" 1600000000`,
		`-rw-r----- hard "app/main.py" 1600000000`,
		"Lrwxrwxrwx machine -> /etc/passwd",
		"drwxr-xr-x root",
		`-rw-r--r-- root/absolute "/root/absolute" 1600000000`,
		`-rwxr-xr-x sudo "sudo" 1600000000`, // and it is nobody else's
		`-rw-r--r-- twice "twice" 1600000000`,
	}
	for name, body := range map[string][]byte{"plain": pack(t, heads...), "compressed": zip(t, pack(t, heads...))} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.put(t, "our-app", ours, "app", false)
			if there, err := w.HasUpload(t.Context(), ours, "our-app", aHash); there || err != nil {
				t.Errorf("HasUpload before: %v, %v", there, err)
			}
			if err := w.PutUpload(t.Context(), "our-app", aHash, bytes.NewReader(body)); err != nil {
				t.Fatalf("PutUpload: %v", err)
			}
			if diff := cmp.Diff(want, listing(t, filepath.Join(w.dir, "builds", "uploads", "t-team-1", aHash, "files"))); diff != "" {
				t.Errorf("upload (-want +got):\n%s", diff)
			}
			for what, tt := range map[string]struct {
				team soulbox.TeamID
				id   soulbox.TemplateID
				want bool
			}{"by the template": {ours, "our-app", true}, "by the team": {ours, "", true}, "another team": {theirs, "", false}} {
				if there, err := w.HasUpload(t.Context(), tt.team, tt.id, aHash); there != tt.want || err != nil {
					t.Errorf("HasUpload %s: %v, %v; want %v", what, there, err, tt.want)
				}
			}
		})
	}
}

func TestUploadRefuses(t *testing.T) {
	good := pack(t, head(tar.TypeReg, "a", 0o644, ""), head(tar.TypeReg, "b", 0o644, ""))
	large := files(t, 1, 2<<20)
	for name, tt := range map[string]struct {
		body io.Reader
		kind soulbox.Kind
		says string
	}{
		"climbing out":            {bytes.NewReader(pack(t, head(tar.TypeReg, "../x", 0o644, ""))), soulbox.Invalid, `"../x" leads out of it`},
		"climbing out in between": {bytes.NewReader(pack(t, head(tar.TypeReg, "a/../../x", 0o644, ""))), soulbox.Invalid, "leads out of it"},
		"a hard link out":         {bytes.NewReader(pack(t, head(tar.TypeLink, "x", 0o644, "../../etc/passwd"))), soulbox.Invalid, `the hard link "x" leads out of it`},
		"a hard link to nothing":  {bytes.NewReader(pack(t, head(tar.TypeLink, "x", 0o644, "etc/passwd"))), soulbox.Invalid, "x contradicts what else is in it"},
		"through a link": {
			bytes.NewReader(pack(t, head(tar.TypeReg, "f", 0o644, ""), head(tar.TypeSymlink, "l", 0o777, "f"), head(tar.TypeReg, "l/x", 0o644, ""))),
			soulbox.Invalid, "l/x contradicts what else is in it",
		},
		"a link to a long path": {
			bytes.NewReader(pack(t, head(tar.TypeSymlink, "x", 0o777, strings.Repeat("x/", 3000)))),
			soulbox.Invalid, `the link "x" leads to a path that is too long`,
		},
		"a device":            {bytes.NewReader(pack(t, head(tar.TypeBlock, "sda", 0o644, ""))), soulbox.Invalid, `"sda" is a device`},
		"a terminal":          {bytes.NewReader(pack(t, head(tar.TypeChar, "tty", 0o644, ""))), soulbox.Invalid, `"tty" is a device`},
		"a pipe":              {bytes.NewReader(pack(t, head(tar.TypeFifo, "pipe", 0o644, ""))), soulbox.Invalid, `"pipe" is a device`},
		"a file as a folder":  {bytes.NewReader(pack(t, head(tar.TypeReg, "a", 0o644, ""), head(tar.TypeReg, "a/b", 0o644, ""))), soulbox.Invalid, "a/b contradicts"},
		"a folder as a file":  {bytes.NewReader(pack(t, head(tar.TypeReg, "a/b", 0o644, ""), head(tar.TypeReg, "a", 0o644, ""))), soulbox.Invalid, "a contradicts"},
		"a long name":         {bytes.NewReader(pack(t, head(tar.TypeReg, strings.Repeat("x/", 3000)+"y", 0o644, ""))), soulbox.Invalid, "is too long for the name of a file"},
		"a long part":         {bytes.NewReader(pack(t, head(tar.TypeReg, strings.Repeat("x", 300), 0o644, ""))), soulbox.Invalid, "contradicts"},
		"the root as a file":  {bytes.NewReader(pack(t, head(tar.TypeReg, ".", 0o644, ""))), soulbox.Invalid, "is no name of a file"},
		"large":               {bytes.NewReader(large), soulbox.TooLarge, "more than 1048576 bytes of files"},
		"large, compressed":   {bytes.NewReader(zip(t, large)), soulbox.TooLarge, "more than 1048576 bytes of files"},
		"large together":      {bytes.NewReader(files(t, 40, 30<<10)), soulbox.TooLarge, "more than 1048576 bytes of files"},
		"without end":         {io.MultiReader(bytes.NewReader(good[:2048]), zeros{}), soulbox.TooLarge, "larger than what may be in it"},
		"no tar":              {strings.NewReader(strings.Repeat("no tar", 300)), soulbox.Invalid, "is no tar"},
		"nothing":             {strings.NewReader(""), soulbox.Invalid, "it has no end"},
		"cut off in a file":   {bytes.NewReader(good[:600]), soulbox.Invalid, "the archive is cut off"},
		"cut off between":     {bytes.NewReader(good[:1024]), soulbox.Invalid, "it has no end"},
		"cut off, compressed": {bytes.NewReader(zip(t, good)[:60]), soulbox.Invalid, "the archive is cut off"},
		"a broken connection": {io.MultiReader(bytes.NewReader(good[:600]), broken{io.ErrUnexpectedEOF}), soulbox.Invalid, "the archive was cut off"},
		"a closed door":       {io.MultiReader(bytes.NewReader(good[:600]), broken{soulbox.Errorf(soulbox.TooLarge, "the body is too large")}), soulbox.TooLarge, "cut off: the body is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			err := w.Upload(t.Context(), ours, aHash, tt.body)
			wantError(t, "Upload", err, tt.kind, tt.says)
			if got := w.uploads(t); len(got) != 0 {
				t.Errorf("left: %v", got)
			}
		})
	}
	w := open(t)
	for _, hash := range []string{"", "x", "../../etc", strings.ToUpper(aHash), aHash + "00", strings.Repeat("g", 64)} {
		wantError(t, "Upload "+hash, w.Upload(t.Context(), ours, hash, bytes.NewReader(good)), soulbox.Invalid, "64 of 0-9 and a-f")
		_, err := w.HasUpload(t.Context(), ours, "", hash)
		wantError(t, "HasUpload "+hash, err, soulbox.Invalid, "64 of 0-9 and a-f")
	}
	wantError(t, "PutUpload for no template", w.PutUpload(t.Context(), "ghost", aHash, bytes.NewReader(good)), soulbox.NotFound, "template 'ghost' not found")
	_, err := w.HasUpload(t.Context(), ours, "ghost", aHash)
	wantError(t, "HasUpload for no template", err, soulbox.NotFound, "template 'ghost' not found")
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the client has left")
	cancel(left)
	if err := w.Upload(ctx, ours, aHash, bytes.NewReader(good)); !errors.Is(err, left) {
		t.Errorf("Upload by somebody who leaves: %v", err)
	}
	if got := w.uploads(t); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// The bound of a team counts all its uploads.
func TestUploadsTogether(t *testing.T) {
	w := open(t)
	put := func(team soulbox.TeamID, n int) error {
		return w.Upload(t.Context(), team, fmt.Sprintf("%064x", n), bytes.NewReader(files(t, 1, 900<<10)))
	}
	for n := range 3 {
		if err := put(ours, n); err != nil {
			t.Fatalf("upload %d: %v", n, err)
		}
	}
	wantError(t, "one that does not fit", put(ours, 3), soulbox.TooLarge, "bytes of files")
	if err := w.Upload(t.Context(), theirs, aHash, bytes.NewReader(files(t, 1, 900<<10))); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what was replaced is there for a while, and counts
		if err := w.Upload(t.Context(), theirs, aHash, bytes.NewReader(files(t, 1, 900<<10))); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, "one that is replaced too often", w.Upload(t.Context(), theirs, aHash, bytes.NewReader(files(t, 1, 900<<10))), soulbox.TooLarge, "bytes of files")
	if err := put("another", 3); err != nil {
		t.Errorf("another team's: %v", err)
	}
	if err := put("odd/../team", 4); err != nil {
		t.Errorf("a team with an odd id: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "builds", "uploads", "x-6f64642f2e2e2f7465616d")); err != nil {
		t.Errorf("its folder: %v", err)
	}
}

// What a client calls like our notes is not taken for one, wherever it leads,
// also while its upload goes on: it would say how much the team has uploaded.
func TestUploadNamedLikeANote(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "note")
	claim := `{"bytes":-1000000000}`
	if err := os.WriteFile(outside, []byte(claim), 0o600); err != nil {
		t.Fatal(err)
	}
	file := head(tar.TypeReg, "upload.json", 0o644, "")
	for name, h := range map[string]tar.Header{"a file": file, "a link": head(tar.TypeSymlink, "upload.json", 0o777, outside)} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			put := func(n int) error {
				return w.Upload(t.Context(), ours, fmt.Sprintf("%064x", n), bytes.NewReader(files(t, 1, 900<<10)))
			}
			for n := range 3 {
				if err := put(n); err != nil {
					t.Fatalf("upload %d: %v", n, err)
				}
			}
			archive := packWith(t, claim, h)
			var meanwhile error
			body := io.MultiReader(bytes.NewReader(archive[:1024]), asked(func() {
				if there, err := filepath.Glob(filepath.Join(w.dir, "builds", "uploads", "t-team-1", ".half-*", "files", "upload.json")); len(there) != 1 {
					t.Errorf("unpacked so far: %v, %v", there, err)
				}
				meanwhile = put(3)
			}), bytes.NewReader(archive[1024:]))
			if err := w.Upload(t.Context(), ours, aHash, body); err != nil {
				t.Errorf("Upload: %v", err)
			}
			wantError(t, "one that does not fit", meanwhile, soulbox.TooLarge, "bytes of files")
			wantError(t, "one after it", put(3), soulbox.TooLarge, "bytes of files")
		})
	}
}

// asked is a reader of nothing that is a function, called when it is read.
type asked func()

func (f asked) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// A second upload takes the place of the first, also at the same time.
func TestUploadAgain(t *testing.T) {
	w := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := w.Upload(t.Context(), ours, aHash, bytes.NewReader(pack(t, head(tar.TypeReg, fmt.Sprint("f", i), 0o644, "")))); err != nil {
				t.Errorf("Upload: %v", err)
			}
		})
	}
	wg.Wait()
	if err := w.Upload(t.Context(), ours, aHash, bytes.NewReader(pack(t, head(tar.TypeReg, "last", 0o644, "")))); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.dir, "builds", "uploads", "t-team-1", aHash, "files")
	if got := listing(t, dir); len(got) != 1 || !strings.Contains(got[0], " last ") {
		t.Errorf("the upload is %q", got)
	}
	if there, err := w.HasUpload(t.Context(), ours, "", aHash); !there || err != nil {
		t.Errorf("HasUpload: %v, %v", there, err)
	}
}

func TestUploadsPruned(t *testing.T) {
	w := open(t)
	w.start(t)
	other := strings.Repeat("0b", 32)
	for _, hash := range []string{aHash, other, aHash} { // one of them twice
		if err := w.Upload(t.Context(), ours, hash, bytes.NewReader(pack(t, head(tar.TypeReg, "a", 0o644, "")))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.uploads(t)); n != 3 {
		t.Errorf("%d folders, want the two and what was replaced: %v", n, w.uploads(t))
	}
	prune := func(after time.Duration, want ...string) {
		t.Helper()
		if err := template.Prune(t.Context(), w.Registry, time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, w.uploads(t), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("uploads after %v (-want +got):\n%s", after, diff)
		}
	}
	prune(25*time.Hour, aHash, other)
	prune(6*24*time.Hour, aHash, other)
	// Who asks for it is going to use it.
	old := time.Now().Add(-3 * 24 * time.Hour)
	for _, hash := range []string{aHash, other} {
		if err := os.Chtimes(filepath.Join(w.dir, "builds", "uploads", "t-team-1", hash, "upload.json"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if there, err := w.HasUpload(t.Context(), ours, "", aHash); !there || err != nil {
		t.Errorf("HasUpload: %v, %v", there, err)
	}
	prune(5*24*time.Hour, aHash)
	prune(8 * 24 * time.Hour)

	// What an upload left that a crash cut off goes with the next start.
	if err := os.MkdirAll(filepath.Join(w.dir, "builds", "uploads", "t-team-1", ".half-1", "files"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.start(t)
	if got := w.uploads(t); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// A build finds what was uploaded for it, and says so when it is gone.
func TestBuildWithUploads(t *testing.T) {
	w := open(t)
	w.start(t)
	if err := w.Upload(t.Context(), ours, aHash, bytes.NewReader(pack(t, head(tar.TypeReg, "a", 0o644, "")))); err != nil {
		t.Fatal(err)
	}
	recipe := soulbox.Recipe{Image: "debian", Steps: []soulbox.Step{
		{Kind: soulbox.StepRun, Args: []string{"wait"}}, {Kind: soulbox.StepCopy, Args: []string{"write a", "b"}, Files: aHash},
	}}
	b := w.ask(t, "app", recipe)
	w.engine.proceed(b.ID)
	w.await(t, b.ID, soulbox.BuildReady)
	b = w.ask(t, "app", recipe)
	if err := os.RemoveAll(filepath.Join(w.dir, "builds", "uploads", "t-team-1")); err != nil {
		t.Fatal(err)
	}
	w.engine.proceed(b.ID)
	if b = w.await(t, b.ID, soulbox.BuildFailed); !strings.Contains(b.Failure.Message, "are not there any more; upload them again") {
		t.Errorf("failure %+v", b.Failure)
	}
	_, _, err := w.Request(t.Context(), soulbox.BuildRequest{Team: theirs, Name: "app", Recipe: recipe})
	wantError(t, "another team's files", err, soulbox.Invalid, "have not been uploaded")
}

// A team cannot fill the disk by sending everything at once.
func TestUploadsAtOnce(t *testing.T) {
	w := open(t)
	ends := make([]*io.PipeWriter, 32)
	results := make(chan error)
	for i := range ends {
		var r *io.PipeReader
		r, ends[i] = io.Pipe()
		go func() { results <- w.Upload(t.Context(), ours, fmt.Sprintf("%064x", i), r) }()
		if _, err := ends[i].Write([]byte{0}); err != nil { // it is read, so it is counted
			t.Fatal(err)
		}
	}
	good := pack(t, head(tar.TypeReg, "a", 0o644, ""))
	wantError(t, "one more", w.Upload(t.Context(), ours, aHash, bytes.NewReader(good)), soulbox.Exhausted, "your team is uploading 32 archives")
	if err := w.Upload(t.Context(), theirs, aHash, bytes.NewReader(good)); err != nil {
		t.Errorf("another team's: %v", err)
	}
	for _, end := range ends {
		end.Close()
	}
	for range ends {
		wantError(t, "what was cut off", <-results, soulbox.Invalid, "cut off")
	}
	if err := w.Upload(t.Context(), ours, aHash, bytes.NewReader(good)); err != nil {
		t.Errorf("when the others are through: %v", err)
	}
}
