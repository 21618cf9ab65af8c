package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/pidfd"
	"github.com/soulbox/soulbox/internal/stepwire"
)

const (
	askTimeout = 10 * time.Second // for a step to say what it wants
	stopGrace  = 8 * time.Second  // for a step to end by itself
)

// serveSteps answers steps until the socket is closed.
func (e *Engine) serveSteps() {
	for {
		c, err := e.steps.AcceptUnix()
		if err != nil {
			return
		}
		e.work.Go(func() {
			defer c.Close()
			if err := e.serveStep(c); err != nil {
				e.Log.Warn("step not served", "err", err)
			}
		})
	}
}

// serveStep follows one step from its first word to its end.
func (e *Engine) serveStep(c *net.UnixConn) error {
	pid, err := peer(c)
	if err != nil {
		return err
	}
	process, err := pidfd.Open(pid, 0)
	if err != nil {
		return err
	}
	defer process.Close()
	if err := c.SetReadDeadline(time.Now().Add(askTimeout)); err != nil {
		return err
	}
	var req stepwire.Request
	folders, err := stepwire.Receive(c, &req)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range folders {
			f.Close()
		}
	}()
	b := e.whose(req.Build)
	if b == nil {
		return stepwire.Send(c, stepwire.Reply{Refused: "soulbox: the build has ended"})
	}
	defer b.steps.Done()
	if len(req.Special) > 0 {
		var reply stepwire.Reply
		if err := e.special(b, folders, req.Special); err != nil {
			b.blame(err)
			reply.Refused = "soulbox: " + soulbox.MessageOf(err)
		}
		return stepwire.Send(c, reply)
	}
	cell, err := e.OpenCell(b.ctx, b.job.Limits.Step, b.job.Limits.Internet && !req.Offline)
	if err != nil {
		err = soulbox.Hide(soulbox.Unavailable, err, "this machine has no place for a step: "+soulbox.MessageOf(err))
		b.blame(err)
		return stepwire.Send(c, stepwire.Reply{Refused: "soulbox: " + err.Error()})
	}
	defer func() {
		if err := cell.Close(); err != nil {
			e.Log.Error("cell not closed", "build", b.job.ID, "err", err)
		}
	}()
	disk := newMeter(folders, b.job.Limits.Step.Disk)
	if err := begin(c, cell, pid); err != nil {
		return err
	}
	e.follow(b, c, process, disk)
	if why, ok := cell.Blame(); ok {
		b.blame(soulbox.Errorf(soulbox.Exhausted, "%s", why))
	}
	return nil
}

// begin puts the step into its cell and lets it run.
func begin(c *net.UnixConn, cell Cell, pid int) error {
	if err := cell.Add(pid); err != nil {
		return err
	}
	netns, err := os.Open(cell.Netns())
	if err != nil {
		return err
	}
	defer netns.Close()
	return stepwire.Send(c, stepwire.Reply{Run: true, Nameserver: cell.Gateway().String()}, netns)
}

// follow returns when the step has ended. It ends it when it has written too
// much, or nobody is interested in it any more.
func (e *Engine) follow(b *running, c *net.UnixConn, process *pidfd.Process, disk *meter) {
	ended := make(chan struct{})
	go func() { // ends with the step, as we do
		defer close(ended)
		_ = process.Wait(context.Background()) // it has ended, or cannot be waited for
	}()
	stop := func(why string) {
		_ = stepwire.Send(c, stepwire.Stop{Why: why}) // or it has ended
		grace := time.NewTimer(stopGrace)
		defer grace.Stop()
		select {
		case <-ended:
		case <-grace.C:
			_ = process.Kill() // or it has ended
			<-ended
		}
	}
	measure := time.NewTimer(disk.pause())
	defer measure.Stop()
	for {
		select {
		case <-ended:
			return
		case <-b.ctx.Done():
			// BuildKit ends it, unless another build waits for the same step.
			if !e.shared(b) {
				stop("")
			}
			<-ended
			return
		case <-measure.C:
			if err := disk.check(b.ctx); err != nil {
				b.blame(err)
				stop("soulbox: " + soulbox.MessageOf(err))
				return
			}
			measure.Reset(disk.pause())
		}
	}
}

// peer returns the number of the process at the other end, which must be root's.
func peer(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var got error
	err = raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, got); err != nil {
		return 0, err
	}
	if cred.Uid != 0 || cred.Pid <= 0 {
		return 0, fmt.Errorf("process %d of user %d is no step", cred.Pid, cred.Uid)
	}
	return int(cred.Pid), nil
}
