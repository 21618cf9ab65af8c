package facts

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// rpmTime bounds the reading of a database: it is somebody else's, and may be
// made to keep a reader busy.
const rpmTime = 20 * time.Second

// rpm reads the database of rpm, if it is one of SQLite.
func (t *tree) rpm(ctx context.Context) {
	for _, name := range []string{"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"} {
		if content, ok := t.read(name, 2*maxDatabase); ok {
			// What cannot be read of it is left out.
			_ = rpmHeaders(ctx, content, func(header []byte) {
				if name, version, ok := parseHeader(header); ok {
					t.add("rpm", name, version)
				}
			})
		}
	}
}

// rpmHeaders calls f with the headers in a database, which it reads from memory:
// SQLite would open files beside it otherwise, and follow links. Nothing of its
// schema is trusted: the table must be one, and not a view that computes
// something.
func rpmHeaders(ctx context.Context, content []byte, f func(header []byte)) (err error) {
	const formats = 18 // two bytes of the head that say how it is written: 1 is in place, 2 with a log ahead
	if len(content) < 100 {
		return errors.New("it is no database")
	}
	// The log is not here, and rpm writes it back when it closes the database.
	content[formats], content[formats+1] = 1, 1

	ctx, cancel := context.WithTimeout(ctx, rpmTime)
	defer cancel()
	db, err := sql.Open("sqlite", "file::memory:?"+url.Values{
		"_pragma": {"trusted_schema(0)", "cell_size_check(1)"},
	}.Encode())
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx) // each has a memory of its own
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		into, ok := c.(interface{ Deserialize(b []byte) error })
		if !ok {
			return errors.New("the driver cannot read a database from memory")
		}
		return into.Deserialize(content)
	})
	if err != nil {
		return err
	}
	var tables int
	err = conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'Packages' AND rootpage > 0`).Scan(&tables)
	if err != nil {
		return err
	}
	if tables != 1 {
		return fmt.Errorf("it has %d tables of packages", tables)
	}
	rows, err := conn.QueryContext(ctx, `SELECT blob FROM Packages WHERE length(blob) < $1 LIMIT $2`, maxHeader, maxPackages)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var header []byte
		if err := rows.Scan(&header); err != nil {
			return err
		}
		f(header)
	}
	return rows.Err()
}

// maxHeader bounds a header; that of a kernel with all its files has 2 MiB.
const maxHeader = 16 << 20

// The tags of a header that matter, and the types that they have.
const (
	tagName, tagVersion, tagRelease, tagEpoch = 1000, 1001, 1002, 1003

	typeInt32, typeString = 4, 6
)

// parseHeader returns what a header of rpm says of name and version. A header is
// the number of its entries, the length of its data, the entries (tag, type,
// offset, count) and the data, all numbers of four bytes, the highest first.
func parseHeader(b []byte) (name, version string, ok bool) {
	const entry = 16
	if len(b) < 8 {
		return "", "", false
	}
	n, length := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if n*entry+length > int64(len(b)-8) {
		return "", "", false
	}
	index, data := b[8:8+n*entry], b[8+n*entry:8+n*entry+length]
	values := map[uint32]string{}
	for ; len(index) > 0; index = index[entry:] {
		tag, kind, at := binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]), int64(binary.BigEndian.Uint32(index[8:]))
		if tag < tagName || tag > tagEpoch || at >= length {
			continue
		}
		switch kind {
		case typeString:
			text, _, _ := bytes.Cut(data[at:min(at+maxText+1, length)], []byte{0})
			values[tag] = string(text)
		case typeInt32:
			if at+4 <= length {
				values[tag] = strconv.FormatUint(uint64(binary.BigEndian.Uint32(data[at:])), 10)
			}
		}
	}
	version = values[tagVersion]
	if values[tagRelease] != "" {
		version += "-" + values[tagRelease]
	}
	if e := values[tagEpoch]; e != "" && e != "0" {
		version = e + ":" + version
	}
	return values[tagName], version, values[tagName] != ""
}
