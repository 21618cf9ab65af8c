package oci

import "testing"

// FuzzSpan asks for parts of blobs: what is to be sent lies within them.
func FuzzSpan(f *testing.F) {
	for _, s := range []string{"", "bytes=0-", "bytes=0-0", "bytes=5-3", "bytes=-5", "bytes=0-1,2-3", "bytes=9223372036854775807-", "bytes=0-9223372036854775807", "bytes=+1-2", "lines=1-2"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			size = -(size + 1) // no blob has less than nothing
		}
		from, length, part := span(header, size)
		if !part && (from != 0 || length != size) || from < 0 || length > size || length > 0 && from > size-length {
			t.Errorf("span(%q, %d) = %d, %d, %v", header, size, from, length, part)
		}
	})
}
