package connectjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Int64 is a 64-bit integer: a string on the wire, where a number is accepted
// as well.
type Int64 int64

// MarshalJSON writes the number as a string.
func (i Int64) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, strconv.FormatInt(int64(i), 10)), nil
}

// UnmarshalJSON reads a number or a string that holds one.
func (i *Int64) UnmarshalJSON(data []byte) error {
	text, ok := number(data)
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return errors.New("not a 64-bit integer: " + strconv.Quote(text))
	}
	*i = Int64(n)
	return nil
}

// Uint32 is an unsigned 32-bit integer: a number on the wire, where a string
// that holds one is accepted as well.
type Uint32 uint32

// UnmarshalJSON reads a number or a string that holds one.
func (u *Uint32) UnmarshalJSON(data []byte) error {
	text, ok := number(data)
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		// Integers may be written as 1e3 or 5.0.
		f, ferr := strconv.ParseFloat(text, 64)
		if ferr != nil || f != math.Trunc(f) || f < 0 || f > math.MaxUint32 {
			return errors.New("not an unsigned 32-bit integer: " + strconv.Quote(text))
		}
		n = uint64(f)
	}
	*u = Uint32(n)
	return nil
}

// number strips the quotes of a quoted number. It reports false for null.
func number(data []byte) (string, bool) {
	text := string(data)
	if text == "null" {
		return "", false
	}
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	return text, true
}

// Bytes is binary data: padded standard base64 on the wire, where the URL-safe
// alphabet and missing padding are accepted as well.
type Bytes []byte

// UnmarshalJSON reads base64 in any of its four common spellings.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var raw []byte
	if len(data) >= 2 && data[0] == '"' && bytes.IndexByte(data, '\\') < 0 {
		raw = data[1 : len(data)-1]
	} else {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		raw = []byte(text)
	}
	raw = bytes.TrimRight(raw, "=")
	enc := base64.RawStdEncoding
	if bytes.ContainsAny(raw, "-_") {
		enc = base64.RawURLEncoding
	}
	out := make([]byte, enc.DecodedLen(len(raw)))
	n, err := enc.Decode(out, raw)
	if err != nil {
		return errors.New("not base64")
	}
	*b = out[:n]
	return nil
}

// unmarshal reads one message into v, a pointer to a struct.
func unmarshal(data []byte, v any) error {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return Errorf(InvalidArgument, "unmarshal message: not a JSON object")
	}
	// Names in snake_case are rare, so the common message is read only once.
	if bytes.IndexByte(data, '_') >= 0 {
		data = camelCase(data, reflect.TypeOf(v))
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Errorf(InvalidArgument, "unmarshal message: %v", err)
	}
	return nil
}

// camelCase renames the fields of a JSON value that is to be stored in a t from
// snake_case to camelCase. Keys of maps are data and stay. What does not parse
// is returned as it came: the reader after this one says what is wrong.
func camelCase(raw json.RawMessage, t reflect.Type) json.RawMessage {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return raw
		}
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil || items == nil {
			return raw
		}
		for i := range items {
			items[i] = camelCase(items[i], t.Elem())
		}
		return remarshal(items, raw)
	case reflect.Struct:
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil || fields == nil {
			return raw
		}
		types := fieldTypes(t)
		out := make(map[string]json.RawMessage, len(fields))
		for name, value := range fields {
			name = lowerCamel(name)
			if ft, ok := types[name]; ok {
				value = camelCase(value, ft)
			}
			out[name] = value
		}
		return remarshal(out, raw)
	default:
		return raw
	}
}

func remarshal(v any, raw json.RawMessage) json.RawMessage {
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}

// fieldTypes maps the JSON names of a struct's fields to their types.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	types := make(map[string]reflect.Type, t.NumField())
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" {
			types[name] = f.Type
		}
	}
	return types
}

// lowerCamel turns a_field_name into aFieldName.
func lowerCamel(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	var b strings.Builder
	upper := false
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_':
			upper = true
			continue
		case upper && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		upper = false
		b.WriteByte(c)
	}
	return b.String()
}
