package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/soulbox/soulbox"
)

// Decode reads r's body, one JSON object, into the struct that into points to.
// Fields it does not know are ignored, since clients are newer than servers;
// fields of the wrong type, repeated fields and anything after the object are
// Invalid errors that name the field.
func Decode(r *http.Request, into any) error {
	b, err := read(r)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		return soulbox.Errorf(soulbox.Invalid, "the request needs a body: a JSON object")
	}
	return decode(b, into)
}

// DecodeOptional is [Decode] for a body that may be left out; then it leaves
// into alone.
func DecodeOptional(r *http.Request, into any) error {
	b, err := read(r)
	if err != nil || len(b) == 0 {
		return err
	}
	return decode(b, into)
}

// Unmarshal is [Decode] for JSON that is a part of a body.
func Unmarshal(b []byte, into any) error {
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return soulbox.Errorf(soulbox.Invalid, "a JSON object is needed")
	}
	return decode(b, into)
}

// read returns the body without the white space around it.
func read(r *http.Request) ([]byte, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, soulbox.Errorf(soulbox.Invalid, "the body must not be compressed (Content-Encoding %.50q)", e)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSpace(b)
	if t := r.Header.Get("Content-Type"); len(b) > 0 && t != "" && !isJSON(t) {
		return nil, soulbox.Errorf(soulbox.Invalid, "the body must be application/json, not %.100q", t)
	}
	return b, nil
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
}

func decode(b []byte, into any) error {
	if b[0] != '{' {
		return soulbox.Errorf(soulbox.Invalid, "the body must be a JSON object")
	}
	if err := json.Unmarshal(b, into); err != nil {
		return jsonError(err)
	}
	return checkNames(b)
}

// checkNames takes valid JSON and refuses an object that says something twice: which of the two is
// meant, two readers may answer differently.
func checkNames(b []byte) error {
	type level struct {
		names map[string]bool // nil in an array
		value bool            // the next token is a value, not a name
	}
	var open []level
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return jsonError(err)
		}
		top := len(open) - 1
		if name, ok := tok.(string); ok && top >= 0 && open[top].names != nil && !open[top].value {
			if open[top].names[name] {
				return soulbox.Errorf(soulbox.Invalid, "%.100q is in the body twice", name)
			}
			open[top].names[name] = true
			open[top].value = true
			continue
		}
		if top >= 0 {
			open[top].value = false
		}
		switch tok {
		case json.Delim('{'):
			open = append(open, level{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
		}
		if len(open) > maxDepth {
			return soulbox.Errorf(soulbox.Invalid, "the body is nested deeper than %d", maxDepth)
		}
	}
}

// maxDepth is far more than any request of ours has.
const maxDepth = 100

// jsonError says what is wrong with JSON, for whoever sent it.
func jsonError(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := e.Field
		if field == "" {
			field = "the body"
		}
		return soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("%.100s must be %s, not %.50s", field, wanted(e.Type), e.Value))
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("the body is not valid JSON (at byte %d)", e.Offset))
	}
	return soulbox.Hide(soulbox.Invalid, err, "the body is not valid JSON")
}

// wanted names a Go type as people who write JSON would.
func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int32:
		return "an integer below 2^31"
	case reflect.Int, reflect.Int64:
		return "an integer"
	default:
		return "of another type"
	}
}
