package netns

import (
	"net/netip"
	"testing"
)

func TestFirstResolver(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"plain", "search example.com\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n", "192.0.2.53"},
		{"comment and spaces", "# nameserver 192.0.2.1\n\tnameserver   192.0.2.2  # first\n", "192.0.2.2"},
		{"stub first", "nameserver 127.0.0.53\nnameserver 192.0.2.53", "192.0.2.53"},
		{"only the stub", "nameserver 127.0.0.53\noptions edns0\n", ""},
		{"IPv6 first", "nameserver 2001:db8::53\nnameserver 192.0.2.53\n", "192.0.2.53"},
		{"nonsense", "nameserver\nnameserver 300.1.2.3\nnameserver 0.0.0.0\nnameserver 224.0.0.1\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := firstResolver([]byte(tt.text))
			if ok != (tt.want != "") || ok && got != netip.MustParseAddr(tt.want) {
				t.Errorf("firstResolver(%q) = %v, %v, want %q", tt.text, got, ok, tt.want)
			}
		})
	}
}

func FuzzFirstResolver(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.53\n"))
	f.Add([]byte("nameserver 127.0.0.53\nnameserver ::ffff:10.0.0.1%eth0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, ok := firstResolver(text); ok && (!got.Is4() || got.IsLoopback() || got.IsUnspecified()) {
			t.Errorf("firstResolver(%q) = %v, which no packet can be sent on to", text, got)
		}
	})
}

func FuzzSlotOf(f *testing.F) {
	p := plan{instance: "t"}
	for _, name := range []string{"sbt-1", "sbt-01", "sbt-65536", "sb-1", "sbt-", "sbt-+1"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if s, ok := p.slotOf(name); ok && (s == 0 || p.device(s) != name) {
			t.Errorf("slotOf(%q) = %d, whose device is %q", name, s, p.device(s))
		}
	})
}
