package state

import "testing"

// FuzzParse: whatever is in /proc, what is taken from it is in bounds.
func FuzzParse(f *testing.F) {
	f.Add([]byte("2 (x) S 1 0 0 0 0 0 0 0 0 0 5 6 0 0 20 0 1 0 100 0"))
	f.Add([]byte("2 (a) S 9 (b) S 1 0 0 0 0 0 0 0 0 0 461168601842738790 461168601842738790 0 0 20 0 1 0 461168601842738790 0"))
	f.Add([]byte("0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 77 1"))
	f.Add([]byte("0: 00000000000000000000000001000000:1F90 0:0 0A 0:0 0:0 0 0 0 18446744073709551615"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseStat(b); ok && (s.pid < 0 || s.ppid < 0 || s.cpu < 0 || s.start < 0) {
			t.Errorf("%q is %+v", b, s)
		}
		if s, ok := parseTCP(b); ok && (!s.addr.IsValid() || s.addr.Port() == 0) {
			t.Errorf("%q is %+v", b, s)
		}
	})
}
