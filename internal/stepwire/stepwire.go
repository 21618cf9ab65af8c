// Package stepwire is what soulbox-step, in which BuildKit and the steps of
// builds run, and the server say to each other: JSON messages with files, over
// local sockets that keep messages apart.
package stepwire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Where things are in the root that BuildKit sees.
const (
	Dir      = "/build"         // the engine's folder
	Programs = "/programs"      // BuildKit and soulbox-step
	Socket   = "run/step.sock"  // of the server, for steps; in the engine's folder
	Cache    = "cache"          // what BuildKit keeps; in the engine's folder
	Network  = "unixpacket"     // of the sockets, for net.Listen and net.Dial
	Special  = "/.soulbox/"     // how the program of a step begins that the server does itself
	TokenEnv = "FTP_PROXY"      // the variable with a step's token, also in lower case
	TokenTag = "soulbox-build:" // how that variable's value begins
)

const (
	maxMessage = 64 << 10
	maxFiles   = 64
)

// A Hold is what the server says to the process that holds BuildKit.
type Hold struct {
	Dir      string   // the engine's folder, as the machine calls it
	Programs []string // files to be seen in Programs
	Command  []string // BuildKit
	Env      []string
	Listen   []string // addresses of the loopback device on which the server wants to listen
}

// A Held is the answer to a Hold, once BuildKit is started. Its files are the
// listeners.
type Held struct {
	Failed string // why it was not
}

// A Request is the first message of a step. Its files are the folders that the
// step may write to: what is in them counts against its disk. Those of a
// special step are one, a copy of the mount of its root that is mounted nowhere.
type Request struct {
	Build   string   // the token that it was given
	Special []string // its command, if the server is to do it
	Offline bool     // it wants no network
}

// A Reply is the server's answer to a Request. If the step is to run, its one
// file is the network namespace.
type Reply struct {
	Run        bool
	Nameserver string
	Refused    string // why it may not; if neither, what is special is done
}

// A Stop ends a step, or BuildKit.
type Stop struct {
	Why string // for whoever reads the step's output; may be empty
}

// Send sends a message with files, which stay open.
func Send(c *net.UnixConn, message any, files ...*os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("a message of %d bytes and %d files is too large", len(b), len(files))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

// Receive reads a message and returns its files, which are the caller's. It is
// io.EOF when the other side has gone.
func Receive(c *net.UnixConn, message any) (_ []*os.File, err error) {
	b := make([]byte, maxMessage)
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, rn, flags, _, err := c.ReadMsgUnix(b, rights)
	if err != nil {
		return nil, err
	}
	files, err := parseFiles(rights[:rn])
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, errors.New("a message is too large")
	}
	if err := json.Unmarshal(b[:n], message); err != nil {
		return nil, err
	}
	return files, nil
}

func parseFiles(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // it is something else than files
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}
