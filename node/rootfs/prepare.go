package rootfs

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// AgentPath is where the agent lies in every root file system.
const AgentPath = "/.soulbox/agent"

// hostName is what a sandbox is called until it is told its own name.
const hostName = "sandbox"

const hosts = `127.0.0.1	localhost ` + hostName + `
::1	localhost ip6-localhost ip6-loopback
`

// sudoers lets the user become anybody. Debian's sudo resolves the host's name
// before each command, which takes five seconds when nobody answers; nothing in
// a sandbox's sudoers depends on that name.
const sudoers = `Defaults !fqdn
` + userName + ` ALL=(ALL:ALL) NOPASSWD: ALL
`

// The SDKs run every command as `bash -l -c`. Debian's profiles start programs
// (id, mesg) on that way, which costs 20 ms a command under gVisor; ours keep
// what people see of them and start none.
//
//go:embed lean
var lean embed.FS

// stock lists what may be replaced: the profiles as Debian and Ubuntu ship
// them. A file that somebody wrote on purpose stays.
var stock = []string{
	"75656c9c0f960573c7530d29286d273f6cef68d9b17cfeb0d74c712860d56b74", // Debian's /etc/profile
	"af4f09eb27cb7f140dfee7f3285574a68ca50ac1db2019652cef4196ee346307", // /etc/bash.bashrc
	"28b4a453b68dde64f814e94bab14ee651f4f162e15dd9920490aa1d49f05d2a4", // /etc/skel/.profile
	"afae8986f549c6403410e029f9cce7983311512d04b1f02af02e4ce0af0dd2bf", // /etc/skel/.bashrc
	"bbee58b1e0787bb851e7f7a4d0c187a8122d68eb67e5fa464696310398ac005b", // /root/.profile, which starts mesg
	"373b7d3b2ab90d75daf94ca16d61339d088c12020ad43b65d1b34ea80b0c0818", // /root/.bashrc
}

// Prepare makes the tree at dir fit for sandboxes: the agent, the user
// (uid 1000 unless the image gave that to somebody else) with a home, sudo
// without a password where sudo exists, name resolution, lean profiles, and
// the folders where file systems get mounted. It may be repeated.
// It returns the user.
func Prepare(dir string, agent io.Reader) (User, error) {
	t, err := openTree(dir)
	if err != nil {
		return User{}, fmt.Errorf("prepare root file system: %w", err)
	}
	defer t.close()
	u, err := t.prepare(agent)
	if err != nil {
		return User{}, fmt.Errorf("prepare root file system: %w", err)
	}
	return u, nil
}

func (t *tree) prepare(agent io.Reader) (User, error) {
	root := owner{}
	if err := t.folders(); err != nil {
		return User{}, err
	}
	if err := t.replace(AgentPath, agent, 0o755, root); err != nil {
		return User{}, err
	}
	for name, content := range map[string]string{
		"/etc/hosts":       hosts,
		"/etc/hostname":    hostName + "\n",
		"/etc/resolv.conf": "", // a file, so that the agent can write it
	} {
		if err := t.replace(name, strings.NewReader(content), 0o644, root); err != nil {
			return User{}, err
		}
	}
	u, err := t.addUser(userName)
	if err != nil {
		return User{}, err
	}
	if err := t.profiles(u); err != nil {
		return User{}, err
	}
	if t.isProgram("/usr/bin/sudo") {
		if err := t.replace("/etc/sudoers.d/soulbox", strings.NewReader(sudoers), 0o440, root); err != nil {
			return User{}, err
		}
	}
	return u, nil
}

// folders makes the places where file systems are mounted, and our own.
func (t *tree) folders() error {
	if err := t.mkdir(".", 0o755, owner{}); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		mode uint32
		make func(string, uint32) error
	}{
		{"proc", 0o755, t.empty},
		{"sys", 0o755, t.empty},
		{"dev", 0o755, t.empty},
		{"tmp", 0o1777, t.keepDir},
		{"run", 0o755, t.keepDir},
		{path.Dir(AgentPath)[1:], 0o755, t.empty},
	} {
		if err := f.make(f.name, f.mode); err != nil {
			return err
		}
	}
	return t.mkdir("/run/e2b", 0o755, owner{})
}

// addUser writes the user called name into the account files and makes the
// homes.
func (t *tree) addUser(name string) (User, error) {
	var have accounts
	files := []struct {
		name string
		text *string
		mode uint32
	}{
		{"/etc/passwd", &have.passwd, 0o644},
		{"/etc/group", &have.group, 0o644},
		{"/etc/shadow", &have.shadow, 0o640},
		{"/etc/gshadow", &have.gshadow, 0o640},
	}
	var before [4]string
	var owners [4]owner
	for i, f := range files {
		b, err := t.read(f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return User{}, err
		}
		st, err := t.stat(f.name)
		if err != nil {
			return User{}, err
		}
		*f.text, before[i] = string(b), string(b)
		owners[i] = owner{int(st.Uid), int(st.Gid)} // group shadow, on Debian
	}
	shell := "/bin/sh"
	if t.isProgram("/bin/bash") {
		shell = "/bin/bash"
	}
	next, u, added, err := have.withUser(name, shell)
	if err != nil {
		return User{}, err
	}
	have = next
	for i, f := range files {
		if *f.text == before[i] {
			continue
		}
		if err := t.replace(f.name, strings.NewReader(*f.text), f.mode, owners[i]); err != nil {
			return User{}, err
		}
	}
	if _, err := t.stat(u.Home); added || errors.Is(err, fs.ErrNotExist) {
		if err := t.mkdir(u.Home, 0o755, owner{u.UID, u.GID}); err != nil {
			return User{}, err
		}
	}
	if _, err := t.stat("/root"); errors.Is(err, fs.ErrNotExist) {
		return u, t.mkdir("/root", 0o700, owner{})
	}
	return u, nil
}

// profiles puts the lean profiles where there is none or a stock one.
func (t *tree) profiles(u User) error {
	files := []struct {
		from, to string
		who      owner
	}{
		{"profile", "/etc/profile", owner{}},
		{"bash.bashrc", "/etc/bash.bashrc", owner{}},
		{"dot.profile", "/etc/skel/.profile", owner{}},
		{"dot.bashrc", "/etc/skel/.bashrc", owner{}},
		{"dot.profile", "/root/.profile", owner{}},
		{"dot.bashrc", "/root/.bashrc", owner{}},
		{"dot.profile", path.Join(u.Home, ".profile"), owner{u.UID, u.GID}},
		{"dot.bashrc", path.Join(u.Home, ".bashrc"), owner{u.UID, u.GID}},
	}
	for _, f := range files {
		have, err := t.read(f.to)
		switch {
		case err == nil && !isStock(have):
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		content, err := lean.ReadFile("lean/" + f.from)
		if err != nil {
			return err
		}
		if err := t.replace(f.to, bytes.NewReader(content), 0o644, f.who); err != nil {
			return err
		}
	}
	return nil
}

func isStock(content []byte) bool {
	sum := sha256.Sum256(content)
	return slices.Contains(stock, hex.EncodeToString(sum[:]))
}
