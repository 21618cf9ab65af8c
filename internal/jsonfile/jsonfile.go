// Package jsonfile keeps a value in a file, as JSON, so that a process which is
// killed at any moment leaves the old value or the new one.
//
// Nothing is synced: what a power cut leaves of these files is of no use,
// because the processes that they tell of do not survive it either.
package jsonfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Next is what the name of a file ends in that [Replace] is writing. A process
// that was killed may leave one behind.
const Next = ".next"

// Create writes the first value. It is os.ErrExist when there is one, so the
// file can also be a lock on its name; named is called between the making of
// the file and its first byte, where a kill leaves a file that [Load] refuses.
func Create(path string, v any, named func()) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	named()
	return errors.Join(json.NewEncoder(f).Encode(v), f.Close())
}

// Replace writes a new value in one step, whether or not there was one.
func Replace(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+Next, b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+Next, path)
}

// Load returns the value of a file.
func Load[T any](path string) (T, error) {
	var v, none T
	b, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}
