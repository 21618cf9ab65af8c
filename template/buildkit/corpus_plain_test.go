package buildkit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"
)

// A plainBuildKit is BuildKit as anybody else runs it: with runc, and without
// anything of ours.
type plainBuildKit struct {
	*client.Client

	dir string
}

func startPlain(t *testing.T, program, registry string) *plainBuildKit {
	t.Helper()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatalf("%v (tools/setup test installs it)", err)
	}
	p := &plainBuildKit{dir: t.TempDir()}
	at := func(name string) string { return filepath.Join(p.dir, name) }
	group := fmt.Sprintf("soulbox-corpus-%d", os.Getpid())
	config := fmt.Sprintf(`root = %[1]q
[log]
  level = "warn"
[grpc]
  address = [%[2]q]
[otel]
  socketPath = %[3]q
[cdi]
  disabled = true
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  gc = false
  snapshotter = "overlayfs"
  networkMode = "host"
  binary = %[4]q
  defaultCgroupParent = %[5]q
[registry."docker.io"]
  mirrors = [%[6]q]
[registry.%[6]q]
  http = true
`, at("root"), "unix://"+at("sock"), at("otel.sock"), runc, "/"+group, registry)
	if err := os.WriteFile(at("buildkitd.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "--config", at("buildkitd.toml"))
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It has nothing to finish, and would wait for connections.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("plain BuildKit said: %s", said.Bytes())
		}
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + group)
		for _, dir := range append(left, filepath.Join("/sys/fs/cgroup", group)) {
			if err := removeGroups(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if p.Client, err = client.New(t.Context(), "unix://"+at("sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Client.Close() })
	ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	if err := p.Wait(ctx); err != nil {
		t.Fatalf("plain BuildKit does not answer: %v", err)
	}
	return p
}

// removeGroups removes cgroups that nothing is in.
func removeGroups(dir string) error {
	below, _ := filepath.Glob(filepath.Join(dir, "*/"))
	for _, d := range below {
		if fi, err := os.Stat(d); err == nil && fi.IsDir() {
			if err := removeGroups(d); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// outcome is what came of a Dockerfile.
type outcome struct {
	tree   manifest
	config []byte // of the image: JSON
	layers []string
}

// build builds s. Its tree is read from a tar, because layers do not tell all:
// they lack the times of folders, and a file that got another name later is
// another file there.
func (p *plainBuildKit) build(ctx context.Context, t *testing.T, s *sample) (*outcome, error) {
	t.Helper()
	file, layoutDir, tree := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "tree.tar")
	text, err := s.plainDockerfile()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(file, "Dockerfile"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	if s.ignore != "" {
		if err := os.WriteFile(filepath.Join(file, "Dockerfile.dockerignore"), []byte(s.ignore), 0o600); err != nil {
			return nil, err
		}
	}
	files, err := fsutil.NewFS(s.context)
	if err != nil {
		return nil, err
	}
	dockerfile, err := fsutil.NewFS(file)
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	if s.target != "" {
		attrs["target"] = s.target
	}
	for name, value := range s.args {
		attrs["build-arg:"+name] = value
	}
	status := make(chan *client.SolveStatus)
	log := make(chan []byte, 1)
	go func() { log <- readLog(status) }()
	_, err = p.Solve(ctx, nil, client.SolveOpt{
		Exports: []client.ExportEntry{{
			Type: client.ExporterOCI, OutputDir: layoutDir,
			Attrs: map[string]string{"tar": "false", "compression": "uncompressed", "force-compression": "true"},
		}, {
			Type:   client.ExporterTar,
			Output: func(map[string]string) (io.WriteCloser, error) { return os.Create(tree) },
		}},
		LocalMounts:   map[string]fsutil.FS{"context": files, "dockerfile": dockerfile},
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		SharedKey:     s.name,
		Session:       []session.Attachable{secretsprovider.FromMap(s.secrets)},
	}, status)
	if said := <-log; err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said)
	}
	img, err := readImage(layoutDir)
	if err != nil {
		return nil, err
	}
	img.tree, err = treeOf(ctx, tree, t.TempDir())
	return img, err
}

// readLog returns what steps said, until the build ends.
func readLog(status <-chan *client.SolveStatus) []byte {
	var b bytes.Buffer
	for st := range status {
		for _, l := range st.Logs {
			b.Write(l.Data)
		}
	}
	return b.Bytes()
}

// readImage reads the one image in the OCI layout at dir.
func readImage(dir string) (*outcome, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(list.Manifests) != 1 {
		return nil, fmt.Errorf("BuildKit wrote %d images", len(list.Manifests))
	}
	img, err := index.Image(list.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	o := &outcome{}
	if o.config, err = img.RawConfigFile(); err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		id, err := l.DiffID()
		if err != nil {
			return nil, err
		}
		o.layers = append(o.layers, id.String())
	}
	return o, nil
}

// treeOf unpacks a tar into the empty folder at root and reads the tree.
func treeOf(ctx context.Context, tar, root string) (manifest, error) {
	if err := os.Chmod(root, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(tar)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := archive.Apply(ctx, root, f); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", tar, err)
	}
	return manifestOf(root)
}
