package e2b

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// query reads the parameters of a request and keeps the first error, so that a
// handler can ask for all of them and then look once.
type query struct {
	values url.Values
	err    error
}

func queryOf(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		err = soulbox.Hide(soulbox.Invalid, err, "the query of the address is malformed")
	}
	return &query{values: values, err: err}
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = soulbox.Errorf(soulbox.Invalid, format, args...)
	}
}

func (q *query) text(name string) string { return q.values.Get(name) }

// number returns an integer from lo to hi, or otherwise if it is not given.
func (q *query) number(name string, otherwise, lo, hi int64) int64 {
	s := q.text(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < lo || n > hi {
		q.fail("%s must be a whole number from %d to %d, not %.50q", name, lo, hi, s)
		return otherwise
	}
	return n
}

// unix returns a time given in units since 1970, or zero.
func (q *query) unix(name string, unit time.Duration) time.Time {
	const farAway = 1 << 33 // seconds: in the year 2242
	n := q.number(name, -1, 0, farAway*int64(time.Second/unit))
	if n < 0 {
		return time.Time{}
	}
	per := int64(time.Second / unit)
	return time.Unix(n/per, n%per*int64(unit)).UTC()
}

// moment returns a time given as RFC 3339, or zero.
func (q *query) moment(name string) time.Time {
	s := q.text(name)
	if s == "" {
		return time.Time{}
	}
	// A plus sign that nobody escaped arrives as a space.
	t, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(s, " ", "+"))
	if err != nil {
		q.fail("%s must be a time such as 2026-01-02T15:04:05Z, not %.50q", name, s)
	}
	return t
}

// oneOf returns one of the allowed words; the first of them if it is not given.
func (q *query) oneOf(name string, allowed ...string) string {
	s := q.text(name)
	if s == "" {
		return allowed[0]
	}
	if !slices.Contains(allowed, s) {
		q.fail("%s must be one of %s, not %.50q", name, strings.Join(allowed, ", "), s)
		return allowed[0]
	}
	return s
}

// list returns a list that is separated by commas, repeated, or both.
func (q *query) list(name string) []string {
	var out []string
	for _, v := range q.values[name] {
		for s := range strings.SplitSeq(v, ",") {
			if s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// metadata returns the filter of a list.
func (q *query) metadata(name string) map[string]string {
	m, err := parseMetadata(q.text(name))
	if err != nil && q.err == nil {
		q.err = err
	}
	return m
}

// parseMetadata reads k=v&k=v. E2B's SDKs escape each key and value twice, as
// part of a list of pairs and before that by itself; people who write the
// address by hand escape once. Both are understood: what does not unescape the
// second time stands as it is.
func parseMetadata(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, "&") {
		k, v, ok := strings.Cut(pair, "=")
		key, err := unescapeTwice(k)
		if !ok || key == "" || err != nil || strings.Contains(v, "=") {
			return nil, soulbox.Errorf(soulbox.Invalid, "metadata must be pairs key=value joined by &, not %.100q", pair)
		}
		value, err := unescapeTwice(v)
		if err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "metadata: %.100q is badly escaped", v)
		}
		if _, twice := out[key]; twice {
			return nil, soulbox.Errorf(soulbox.Invalid, "metadata: the key %.100q is there twice", key)
		}
		out[key] = value
	}
	return out, nil
}

func unescapeTwice(s string) (string, error) {
	once, err := url.QueryUnescape(s)
	if err != nil {
		return "", err
	}
	if twice, err := url.PathUnescape(once); err == nil {
		return twice, nil
	}
	return once, nil
}
