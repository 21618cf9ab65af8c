package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listener is a socket that waits for connections.
type listener struct {
	addr  netip.AddrPort
	inode uint64
}

// ports adds the ports on which anybody but self listens.
func (l *look) ports(self int) {
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		for line := range bytes.Lines(readHead(filepath.Join(l.proc, name), maxTable)) {
			s, ok := parseTCP(line)
			if !ok || l.sockets[s.inode] == self {
				continue
			}
			p := Port{Port: s.addr.Port(), Address: s.addr.Addr().String(), PID: l.sockets[s.inode]}
			if slices.Contains(l.state.Ports, p) {
				continue // two processes of one group share it, each with its own socket
			}
			if len(l.state.Ports) == maxPorts {
				l.state.Truncated = true
				return
			}
			l.state.Ports = append(l.state.Ports, p)
		}
	}
}

// parseTCP reads a line of /proc/net/tcp or tcp6 about a listener.
func parseTCP(line []byte) (listener, bool) {
	const local, state, inode = 1, 3, 9
	f := strings.Fields(string(line))
	if len(f) <= inode || f[state] != "0A" {
		return listener{}, false
	}
	host, service, ok := strings.Cut(f[local], ":")
	port, err := strconv.ParseUint(service, 16, 16)
	if !ok || err != nil || port == 0 {
		return listener{}, false
	}
	// Words of four bytes, each printed as the number that the machine sees.
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return listener{}, false
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return listener{}, false
	}
	number, err := strconv.ParseUint(f[inode], 10, 64)
	return listener{netip.AddrPortFrom(addr, uint16(port)), number}, err == nil
}
