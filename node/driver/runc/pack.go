package runc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A packed disk is one without its holes, because whoever keeps it reads and
// hashes every byte: the size of the disk, and then pieces with their offset and
// length, in order. A piece of no length is the last.
type piece struct {
	Offset, Length int64
}

// pack writes the disk src to dst.
func pack(ctx context.Context, dst, src *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if err := binary.Write(dst, binary.BigEndian, size); err != nil {
		return err
	}
	err = eachPiece(ctx, src, size, func(offset, length int64) error {
		if err := binary.Write(dst, binary.BigEndian, piece{offset, length}); err != nil {
			return err
		}
		_, err := io.CopyN(dst, src, length)
		return err
	})
	if err != nil {
		return err
	}
	return binary.Write(dst, binary.BigEndian, piece{Offset: size})
}

// unpack makes the empty file dst the disk that was packed into src, which is to
// have size bytes.
func unpack(ctx context.Context, dst io.WriteSeeker, src io.Reader, size int64) error {
	var have int64
	if err := binary.Read(src, binary.BigEndian, &have); err != nil {
		return fmt.Errorf("the saved disk: %w", err)
	}
	if have != size {
		return fmt.Errorf("the saved disk has %d bytes, and the sandbox's is to have %d", have, size)
	}
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var p piece
		if err := binary.Read(src, binary.BigEndian, &p); err != nil {
			return fmt.Errorf("the saved disk: %w", err)
		}
		if p.Offset < at || p.Length < 0 || p.Length > size || p.Offset > size-p.Length {
			return fmt.Errorf("the saved disk has a piece of %d bytes at %d, which cannot be", p.Length, p.Offset)
		}
		if p.Length == 0 {
			return finish(dst, p.Offset, size)
		}
		if _, err := dst.Seek(p.Offset, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, p.Length); err != nil {
			return fmt.Errorf("the saved disk: %w", err)
		}
		at = p.Offset + p.Length
	}
}

// finish gives the disk its full size.
func finish(dst io.WriteSeeker, end, size int64) error {
	if end != size {
		return errors.New("the saved disk ends too early")
	}
	if f, ok := dst.(*os.File); ok {
		return f.Truncate(size)
	}
	return nil
}
