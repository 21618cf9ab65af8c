package server

import (
	"path/filepath"

	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/internal/payload"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/gvisor"
	"github.com/soulbox/soulbox/node/driver/runc"
)

// gvisorDriver returns the one that there always is.
func gvisorDriver(cfg Config, faults *fault.Points) (*gvisor.Driver, error) {
	sentry, err := payload.Unpack(payload.Sentry, cfg.Cache)
	if err != nil {
		return nil, err
	}
	boot, err := payload.Unpack(payload.Boot, cfg.Cache)
	if err != nil {
		return nil, err
	}
	return gvisor.New(sentry, boot, cfg.runDir(), faults)
}

// otherDrivers returns those beside gVisor's. They are there whether or not an
// operator allows new sandboxes of their kind, for those from when he did. A
// binary without the program, such as one for a machine that nobody could
// compile it for, has none.
func otherDrivers(cfg Config, faults *fault.Points) ([]driver.Driver, error) {
	if len(cfg.allowed()) == 0 && !payload.Has(payload.Runc) {
		return nil, nil
	}
	program, err := payload.Unpack(payload.Runc, cfg.Cache)
	if err != nil {
		return nil, err
	}
	d, err := runc.New(program, filepath.Join(cfg.Data, "runc"), faults)
	if err != nil {
		return nil, err
	}
	return []driver.Driver{d}, nil
}
