package rootfs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// userNames are those that useradd takes.
var userNames = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// AddUser makes sure that the tree at dir has the user called name, with a home
// and our login profiles, and if sudo is set, with sudo that asks for no
// password, where there is sudo. It may be repeated.
func AddUser(dir, name string, sudo bool) error {
	if !userNames.MatchString(name) {
		return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be the name of a user", name)
	}
	t, err := openTree(dir)
	if err != nil {
		return fmt.Errorf("add user %s: %w", name, err)
	}
	defer t.close()
	u, err := t.addUser(name)
	if err == nil {
		err = t.profiles(u)
	}
	if err == nil && sudo && t.isProgram("/usr/bin/sudo") {
		may := "Defaults !fqdn\n" + name + " ALL=(ALL:ALL) NOPASSWD: ALL\n" // see sudoers
		err = t.replace("/etc/sudoers.d/soulbox-"+name, strings.NewReader(may), 0o440, owner{})
	}
	if err != nil {
		return fmt.Errorf("add user %s: %w", name, err)
	}
	return nil
}

// MakeDir makes sure that the tree at dir has the folder called name, and that
// it belongs to user: a name that the tree knows or a number, and perhaps a
// group behind a colon. What is in the folder stays as it is, as does its mode.
func MakeDir(dir, name, user string) error {
	t, err := openTree(dir)
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	defer t.close()
	who, err := t.owner(user)
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	fd, err := t.dir(name)
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchownat(fd, "", who.uid, who.gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("make folder %s: chown: %w", name, err)
	}
	return nil
}

// owner returns whom the tree's account files mean by user, such as "www-data",
// "33" or "33:33".
func (t *tree) owner(user string) (owner, error) {
	name, group, grouped := strings.Cut(user, ":")
	who := owner{}
	switch n, err := strconv.ParseUint(name, 10, 31); {
	case err == nil:
		who = owner{int(n), int(n)}
	case name != "root":
		passwd, err := t.read("/etc/passwd")
		if err != nil {
			return owner{}, err
		}
		line, ok := find(string(passwd), name)
		if !ok {
			return owner{}, soulbox.Errorf(soulbox.Invalid, "the image has no user %.100q", name)
		}
		u, err := parseUser(line)
		if err != nil {
			return owner{}, err
		}
		who = owner{u.UID, u.GID}
	}
	if !grouped {
		return who, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		who.gid = int(n)
		return who, nil
	}
	groups, err := t.read("/etc/group")
	if err != nil {
		return owner{}, err
	}
	line, ok := find(string(groups), group)
	if !ok {
		return owner{}, soulbox.Errorf(soulbox.Invalid, "the image has no group %.100q", group)
	}
	gid, err := number(line, 2)
	if err != nil {
		return owner{}, soulbox.Errorf(soulbox.Invalid, "the image's group %.100q has no number", group)
	}
	who.gid = gid
	return who, nil
}
