package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/pkg/control/client"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/boot"
)

// The files of a saved sandbox, in the order in which the sentry wants them.
var (
	memoryFiles = []string{checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName}
	diskFiles   = []string{
		checkpointfiles.FSCheckpointManifestFileName, checkpointfiles.FSCheckpointMultiTarFileName,
		checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName,
	}
)

// Freeze implements [driver.Instance].
func (i *instance) Freeze(ctx context.Context) error {
	return i.call(ctx, boot.ContMgrPause, nil)
}

// Thaw implements [driver.Instance].
func (i *instance) Thaw(ctx context.Context) error {
	return i.call(ctx, boot.ContMgrResume, nil)
}

// Save implements [driver.Instance]. The sentry goes on in any case: told to
// end after saving, it would end after failing to save, too.
func (i *instance) Save(ctx context.Context, dir string, memory bool) (err error) {
	names := diskFiles
	if memory {
		names = memoryFiles
	}
	files := make([]*os.File, 0, len(names))
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("save sandbox: %w", err)
		}
		files = append(files, f)
	}
	if !memory {
		args := boot.FSSaveArgs{}
		args.FilePayload.Files = files
		return i.call(ctx, boot.ContMgrFSSave, &args)
	}
	// Without compression the pages lie in a file of their own, which can be
	// read while the rest is being restored.
	opts := control.SaveOpts{Metadata: statefile.CompressionLevelNone.ToMetadata(), HavePagesFile: true, Resume: true}
	opts.FilePayload.Files = files
	return i.call(ctx, boot.ContMgrCheckpoint, &opts)
}

// Changes implements [driver.Instance]. The sentry reads each file whole before
// it writes it.
func (i *instance) Changes(ctx context.Context, w *os.File) error {
	opts := control.TarRootfsUpperLayerOpts{}
	opts.FilePayload.Files = []*os.File{w}
	return i.call(ctx, boot.FsTarRootfsUpperLayer, &opts)
}

// call asks the sentry for something and returns when it has answered, or when
// ctx or the sentry has ended.
func (i *instance) call(ctx context.Context, method string, arg any) error {
	conn, err := client.ConnectTo(i.state.Socket)
	if err != nil {
		return fmt.Errorf("reach the sentry: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if arg == nil {
		arg = &struct{}{}
	}
	if err := conn.Call(method, arg, nil); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
