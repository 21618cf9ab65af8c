package proxy

import (
	"io"
	"sync"
)

// Most streams carry little and wait long, some carry a file. Each starts
// with a small buffer, takes a large one as soon as its source fills that, and
// gives it back when the source slows down: a thousand idle streams cost
// megabytes, and a file needs few system calls.
const (
	smallBuffer = 16 << 10
	largeBuffer = 256 << 10
)

// buffers lends them out.
type buffers struct {
	small, large sync.Pool
}

func newBuffers() *buffers {
	return &buffers{
		small: sync.Pool{New: func() any { return new([smallBuffer]byte) }},
		large: sync.Pool{New: func() any { return new([largeBuffer]byte) }},
	}
}

// pump copies src to dst until src ends, and calls flush after each write. It
// tells apart which side failed; io.EOF is no failure.
func (b *buffers) pump(dst io.Writer, src io.Reader, flush func() error) (n int64, rerr, werr error) {
	small, _ := b.small.Get().(*[smallBuffer]byte)
	defer b.small.Put(small)
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			b.large.Put(large)
		}
	}()
	buf := small[:]
	for {
		got, err := src.Read(buf)
		if got > 0 {
			put, err := dst.Write(buf[:got])
			n += int64(put)
			if err == nil && flush != nil {
				err = flush()
			}
			if err != nil {
				return n, nil, err
			}
		}
		switch {
		case err == io.EOF:
			return n, nil, nil
		case err != nil:
			return n, err, nil
		case large == nil && got == smallBuffer:
			large, _ = b.large.Get().(*[largeBuffer]byte)
			buf = large[:]
		case large != nil && got < smallBuffer/2:
			b.large.Put(large)
			large, buf = nil, small[:]
		}
	}
}
