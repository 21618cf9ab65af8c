package rootfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/soulbox/soulbox"
)

const (
	userName = "user"
	userID   = 1000
	lastID   = 59999 // Debian's last for people

	// passwordDay is the day, counted from 1970, on which passwords were
	// last changed: any fixed day that is past, so that images repeat.
	passwordDay = 20000
)

// A User is who programs of a sandbox run as.
type User struct {
	Name  string
	UID   int
	GID   int
	Home  string
	Shell string
}

// accounts are the texts of /etc/passwd, group, shadow and gshadow. The last
// two stay empty where the image has none.
type accounts struct {
	passwd, group, shadow, gshadow string
}

// withUser adds root and the user called name where they are missing and
// returns the user.
// Lines that are there stay as they are, even when they make no sense. A user
// id or group id that the image has given to somebody else is not taken twice:
// two names for one id would make `whoami` answer with the first.
func (a accounts) withUser(name, shell string) (accounts, User, bool, error) {
	if _, ok := find(a.passwd, "root"); !ok {
		a.passwd = "root:x:0:0:root:/root:" + shell + "\n" + a.passwd
	}
	if _, ok := find(a.group, "root"); !ok {
		a.group = "root:x:0:\n" + a.group
	}
	if line, ok := find(a.passwd, name); ok {
		u, err := parseUser(line)
		return a, u, false, err
	}
	u := User{Name: name, Home: "/home/" + name, Shell: shell}
	uids, gids := ids(a.passwd), ids(a.group)
	id := userID
	for slices.Contains(uids, id) || slices.Contains(gids, id) {
		if id++; id > lastID {
			return a, User{}, false, soulbox.Errorf(soulbox.Invalid, "the image's /etc/passwd leaves no user id between %d and %d", userID, lastID)
		}
	}
	u.UID, u.GID = id, id
	if line, ok := find(a.group, name); ok {
		gid, err := number(line, 2)
		if err != nil {
			return a, User{}, false, soulbox.Errorf(soulbox.Invalid, "the image's /etc/group has a group %q without a number", name)
		}
		u.GID = gid
	} else {
		a.group = appendLine(a.group, fmt.Sprintf("%s:x:%d:", name, u.GID))
		if a.gshadow != "" {
			a.gshadow = appendLine(a.gshadow, name+":!::")
		}
	}
	a.passwd = appendLine(a.passwd, fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, u.UID, u.GID, u.Home, u.Shell))
	if _, ok := find(a.shadow, name); !ok && a.shadow != "" {
		// A star is no password's hash, yet the account is not locked.
		a.shadow = appendLine(a.shadow, fmt.Sprintf("%s:*:%d:0:99999:7:::", name, passwordDay))
	}
	return a, u, true, nil
}

func parseUser(line string) (User, error) {
	f := strings.Split(line, ":")
	uid, err1 := number(line, 2)
	gid, err2 := number(line, 3)
	if err1 != nil || err2 != nil || len(f) < 7 || !strings.HasPrefix(f[5], "/") {
		return User{}, soulbox.Errorf(soulbox.Invalid, "the image's /etc/passwd has a user %q whose line cannot be read", f[0])
	}
	return User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}, nil
}

// find returns the first line of text whose first field is name.
func find(text, name string) (string, bool) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+":") {
			return strings.TrimRight(line, "\r\n"), true
		}
	}
	return "", false
}

// ids returns the third fields of all lines, the user or group ids.
func ids(text string) []int {
	var all []int
	for line := range strings.Lines(text) {
		if id, err := number(strings.TrimRight(line, "\r\n"), 2); err == nil {
			all = append(all, id)
		}
	}
	return all
}

// number returns field i of line as a user or group id.
func number(line string, i int) (int, error) {
	f := strings.Split(line, ":")
	if len(f) <= i {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseInt(f[i], 10, 32)
	if err != nil || n < 0 {
		return 0, strconv.ErrSyntax
	}
	return int(n), nil
}

func appendLine(text, line string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + line + "\n"
}
