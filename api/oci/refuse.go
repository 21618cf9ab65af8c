package oci

import (
	"errors"
	"net/http"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// codes is what the specification calls each kind of error on one row. Those
// that are not in it are the same on all rows, or have no name there.
type codes map[soulbox.Kind]string

var (
	everywhere = codes{
		soulbox.Unauthenticated: "UNAUTHORIZED",
		soulbox.Forbidden:       "DENIED",
		soulbox.Exhausted:       "TOOMANYREQUESTS",
		soulbox.Unavailable:     "UNAVAILABLE",
		soulbox.Internal:        "UNKNOWN",
	}
	names           = codes{soulbox.Invalid: "NAME_INVALID", soulbox.NotFound: "NAME_UNKNOWN"}
	gettingManifest = codes{soulbox.Invalid: "TAG_INVALID", soulbox.NotFound: "MANIFEST_UNKNOWN"}
	puttingManifest = codes{soulbox.Invalid: "MANIFEST_INVALID", soulbox.NotFound: "MANIFEST_BLOB_UNKNOWN", soulbox.TooLarge: "MANIFEST_INVALID", soulbox.Conflict: "DENIED"}
	gettingBlob     = codes{soulbox.Invalid: "DIGEST_INVALID", soulbox.NotFound: "BLOB_UNKNOWN"}
	uploading       = codes{soulbox.Invalid: "BLOB_UPLOAD_INVALID", soulbox.NotFound: "BLOB_UPLOAD_UNKNOWN", soulbox.TooLarge: "SIZE_INVALID", soulbox.Conflict: "BLOB_UPLOAD_INVALID"}
)

// A failure is an error with a status and a code of its own.
type failure struct {
	status int
	code   string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func coded(status int, code string, err error) error { return &failure{status, code, err} }

// body is how the specification tells errors.
type body struct {
	Errors []told `json:"errors"`
}

type told struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refuseAs returns what answers the errors of a row.
func refuseAs(of codes) func(w http.ResponseWriter, status int, err error, msg string) {
	return func(w http.ResponseWriter, status int, err error, msg string) {
		kind := soulbox.KindOf(err)
		code, ok := of[kind]
		if !ok {
			code, ok = everywhere[kind]
		}
		if !ok {
			code = "UNSUPPORTED"
		}
		if f, ok := errors.AsType[*failure](err); ok {
			status, code = f.status, f.code
		}
		if status == http.StatusUnauthorized {
			// This is how clients get to know that they are to log in, and how.
			w.Header().Set("WWW-Authenticate", `Basic realm="SoulBox: any user, and an API key as the password"`)
		}
		_ = api.Answer(w, status, body{[]told{{code, msg}}}) // two strings always encode
	}
}
