package account

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBook bounds what is read of a passwd or group file. A program in the
// sandbox may have written it.
const maxBook = 4 << 20

// Names holds accounts as they were at one moment.
type Names struct {
	users  map[string]*User
	owners map[uint32]string
	groups map[uint32]string
}

// User returns the name of a user, or the number if it has none.
func (n *Names) User(uid uint32) string {
	return nameOr(n.owners, uid)
}

// Group returns the name of a group, or the number if it has none.
func (n *Names) Group(gid uint32) string {
	return nameOr(n.groups, gid)
}

func nameOr(names map[uint32]string, id uint32) string {
	if name, ok := names[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// book caches the two files for as long as they look unchanged.
type book struct {
	passwd, group string

	mu    sync.Mutex
	names *Names   // +checklocks:mu
	seen  [2]stamp // +checklocks:mu
}

// stamp tells two states of a file apart.
type stamp struct {
	mtime time.Time
	size  int64
}

func (b *book) read() (*Names, error) {
	now := [2]stamp{stampOf(b.passwd), stampOf(b.group)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names != nil && b.seen == now {
		return b.names, nil
	}
	users, err := readFile(b.passwd)
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	groups, err := readFile(b.group)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	b.names, b.seen = parse(users, groups), now
	return b.names, nil
}

func stampOf(path string) stamp {
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{fi.ModTime(), fi.Size()}
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBook))
	return string(data), err
}

// parse reads the contents of a passwd and a group file. Lines that are not
// accounts are skipped, and the first of two lines with one name wins, as in
// the C library.
func parse(passwd, group string) *Names {
	n := &Names{users: map[string]*User{}, owners: map[uint32]string{}, groups: map[uint32]string{}}
	for fields := range lines(passwd, 7) {
		uid, uok := id(fields[2])
		gid, gok := id(fields[3])
		if _, dup := n.users[fields[0]]; dup || !uok || !gok {
			continue
		}
		home := fields[5]
		if home == "" || home[0] != '/' {
			home = "/"
		}
		n.users[fields[0]] = &User{Name: fields[0], UID: uid, GID: gid, Groups: []uint32{gid}, Home: home}
		if _, dup := n.owners[uid]; !dup {
			n.owners[uid] = fields[0]
		}
	}
	for fields := range lines(group, 4) {
		gid, ok := id(fields[2])
		if !ok {
			continue
		}
		if _, dup := n.groups[gid]; !dup {
			n.groups[gid] = fields[0]
		}
		for member := range strings.SplitSeq(fields[3], ",") {
			if u, ok := n.users[member]; ok && gid != u.GID {
				u.Groups = append(u.Groups, gid)
			}
		}
	}
	return n
}

// lines yields the lines of a file that have at least want fields and a name.
func lines(text string, want int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		sc := bufio.NewScanner(strings.NewReader(text))
		sc.Buffer(nil, maxBook)
		for sc.Scan() {
			fields := strings.Split(sc.Text(), ":")
			if len(fields) < want || fields[0] == "" || strings.ContainsAny(fields[0][:1], "#+-") {
				continue
			}
			if !yield(fields) {
				return
			}
		}
	}
}

func id(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil
}
