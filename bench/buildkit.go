package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/soulbox/soulbox/internal/blobdir"
	"github.com/soulbox/soulbox/internal/payload"
)

const (
	rootName     = "root" // what recipes for BuildKit alone are built on
	daemonStart  = 30 * time.Second
	daemonStop   = 10 * time.Second
	daemonWords  = 500 // of its log, in an error
	cgroupFolder = "/sys/fs/cgroup"
)

// A baseImage is the template's files as BuildKit reads an image.
type baseImage struct {
	store  content.Store
	digest string
}

// asImage makes an image of the archive at tar, in the folder dir.
func asImage(tar, dir string) (baseImage, error) {
	layer, err := tarball.LayerFromFile(tar, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return baseImage{}, err
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return baseImage{}, err
	}
	if img, err = mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON), layer); err != nil {
		return baseImage{}, err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return baseImage{}, err
	}
	if err := path.AppendImage(img); err != nil {
		return baseImage{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return baseImage{}, err
	}
	return baseImage{blobdir.Store(dir), digest.String()}, nil
}

// A buildKit is a daemon of its own. Its mounts are not this program's.
type buildKit struct {
	*client.Client

	cmd   *exec.Cmd
	group string
	log   string
	ended chan struct{} // closed once it is
}

// startBuildKit starts one that keeps everything in dir, with cgroups below
// group.
func startBuildKit(ctx context.Context, dir, group string) (_ *buildKit, err error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	program, err := payload.Unpack(payload.Buildkitd, at("bin"))
	if err != nil {
		return nil, err
	}
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
  binary = "runc"
  defaultCgroupParent = %[4]q
`, at("cache"), "unix://"+at("sock"), at("otel"), "/"+group)
	if err := os.WriteFile(at("buildkitd.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := os.Mkdir(at("tmp"), 0o700); err != nil {
		return nil, err
	}
	k := &buildKit{group: group, log: at("log"), ended: make(chan struct{})}
	log, err := os.Create(k.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, "--config", at("buildkitd.toml")) // stop ends it
	k.cmd.Env = append(k.cmd.Environ(), "TMPDIR="+at("tmp"))                                           // where it forgets folders
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	started := make(chan error, 1)
	go func() { // ends with the daemon
		defer close(k.ended)
		runtime.LockOSThread() // for good: the daemon ends with the thread that has started it
		err := k.cmd.Start()
		started <- err
		if err == nil {
			_ = k.cmd.Wait() // stop ends it, or a build fails
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.stop())
		}
	}()
	if k.Client, err = client.New(ctx, "unix://"+at("sock")); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, daemonStart)
	defer cancel()
	if err := k.Wait(limited); err != nil {
		said, _ := os.ReadFile(k.log) // what it did not say cannot be shown
		return nil, fmt.Errorf("BuildKit does not answer: %w: %s", err, said[max(0, len(said)-daemonWords):])
	}
	return k, nil
}

// build makes an image of a recipe.
func (k *buildKit) build(ctx context.Context, c *recipe, base baseImage) error {
	files, err := fsutil.NewFS(c.dir)
	if err != nil {
		return err
	}
	options := map[string]string{"context:" + rootName: "oci-layout://" + rootName + "@" + base.digest}
	for name, value := range c.args() {
		options["build-arg:"+name] = value
	}
	_, err = k.Solve(ctx, nil, client.SolveOpt{
		Exports:       []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": rootName + "-built"}}},
		LocalMounts:   map[string]fsutil.FS{"context": files, "dockerfile": files},
		OCIStores:     map[string]content.Store{rootName: base.store},
		SharedKey:     c.dir,
		Frontend:      "dockerfile.v0",
		FrontendAttrs: options,
	}, nil)
	return err
}

// stop ends the daemon, with all that it has started.
func (k *buildKit) stop() error {
	if k.Client != nil {
		_ = k.Close() // it is not needed any more
	}
	_ = k.cmd.Process.Signal(syscall.SIGTERM) // or it has ended
	select {
	case <-k.ended:
	case <-time.After(daemonStop):
		_ = syscall.Kill(-k.cmd.Process.Pid, syscall.SIGKILL) // as above
		<-k.ended
	}
	// One or, with the first version of cgroups, one for each controller.
	found, err := filepath.Glob(filepath.Join(cgroupFolder, "*", k.group))
	if err != nil {
		return err
	}
	for _, dir := range append(found, filepath.Join(cgroupFolder, k.group)) {
		err = errors.Join(err, removeGroups(dir))
	}
	return err
}

// removeGroups removes a cgroup that nothing is in, and those below it.
func removeGroups(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range below {
		if d.IsDir() {
			err = errors.Join(err, removeGroups(filepath.Join(dir, d.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(dir))
}
