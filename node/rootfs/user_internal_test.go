package rootfs

import (
	"strings"
	"testing"
)

// Whatever the account files hold, a success means that the user is there once
// and that every line of before is still there.
func FuzzWithUser(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash\n", "root:x:0:\n", "root:*:1::::::\n")
	f.Add("user:x:5:5::/h:/bin/sh\n", "", "")
	f.Add("a:x:1000:1000::/:", "b:x:1001:\nuser:x:7:", "x")
	f.Add("user:x::::", ":::\n\n", "\x00")
	f.Fuzz(func(t *testing.T, passwd, group, shadow string) {
		have := accounts{passwd: passwd, group: group, shadow: shadow}
		next, u, added, err := have.withUser(userName, "/bin/sh")
		if err != nil {
			return
		}
		if u.Name != userName || u.UID < 0 || u.GID < 0 || !strings.HasPrefix(u.Home, "/") {
			t.Errorf("user is %+v", u)
		}
		if _, ok := find(next.passwd, userName); !ok {
			t.Errorf("no user in %q", next.passwd)
		}
		for _, p := range [][2]string{{passwd, next.passwd}, {group, next.group}, {shadow, next.shadow}} {
			if !strings.Contains(p[1], p[0]) {
				t.Errorf("%q was lost from %q", p[0], p[1])
			}
		}
		again, u2, more, err := next.withUser(userName, "/bin/sh")
		if err != nil || more || u2 != u || again != next {
			t.Errorf("second time: %+v, %v, %v; first %+v, %v", u2, more, err, u, added)
		}
	})
}
