package ecr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// sign signs req, which must ask for / without a query, with the keys k for an
// AWS service, as of now. It signs every header that req has, so it comes last.
//
// This is Signature Version 4 as the AWS Identity and Access Management User
// Guide has it ("Create a signed AWS API request").
func sign(req *http.Request, body []byte, k Keys, service string, now time.Time) {
	const algorithm = "AWS4-HMAC-SHA256"
	at := now.UTC().Format("20060102T150405Z")
	day := at[:8]
	req.Header.Set("X-Amz-Date", at)

	names, headers := canonical(req)
	request := strings.Join([]string{req.Method, "/", "", headers, names, hexSum(body)}, "\n")

	scope := strings.Join([]string{day, k.Region, service, "aws4_request"}, "/")
	text := strings.Join([]string{algorithm, at, scope, hexSum([]byte(request))}, "\n")

	key := []byte("AWS4" + k.Secret)
	for _, part := range []string{day, k.Region, service, "aws4_request", text} {
		key = keyed(key, part) // the last of them is the signature
	}
	req.Header.Set("Authorization", algorithm+" Credential="+k.ID+"/"+scope+", SignedHeaders="+names+", Signature="+hex.EncodeToString(key))
}

// canonical returns the names of the headers that are signed, and the headers,
// each with a line feed behind it.
func canonical(req *http.Request) (names, headers string) {
	values := map[string]string{"host": req.URL.Host}
	sorted := []string{"host"}
	for name, v := range req.Header {
		name = strings.ToLower(name)
		for i := range v {
			v[i] = strings.Join(strings.Fields(v[i]), " ")
		}
		values[name] = strings.Join(v, ",")
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var b strings.Builder
	for _, name := range sorted {
		b.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(sorted, ";"), b.String()
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
