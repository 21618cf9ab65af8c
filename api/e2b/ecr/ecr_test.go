package ecr_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api/e2b/ecr"
)

var keys = ecr.Keys{ID: "AKIDEXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", Region: "eu-central-1"}

// aws returns a client for which every host is a server that answers so, and
// what that was asked last.
func aws(t *testing.T, status int, answer string) (*http.Client, *http.Request) {
	t.Helper()
	asked := &http.Request{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*asked = *r.Clone(context.WithoutCancel(r.Context()))
		asked.Body = io.NopCloser(strings.NewReader(string(body)))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(srv.Close)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		},
	}}, asked
}

func token(plain string) string {
	return `{"authorizationData":[{"authorizationToken":"` + base64.StdEncoding.EncodeToString([]byte(plain)) + `","expiresAt":1.4E9,"proxyEndpoint":"https://1.dkr.ecr"}]}`
}

func TestLogin(t *testing.T) {
	for region, host := range map[string]string{
		"eu-central-1":  "api.ecr.eu-central-1.amazonaws.com",
		"us-gov-east-1": "api.ecr.us-gov-east-1.amazonaws.com",
		"cn-north-1":    "api.ecr.cn-north-1.amazonaws.com.cn",
	} {
		client, asked := aws(t, 200, token("AWS:pass:word"))
		k := keys
		k.Region = region
		login, err := ecr.Login(t.Context(), client, k)
		if want := (soulbox.Login{User: "AWS", Password: "pass:word"}); login != want || err != nil {
			t.Fatalf("%s: Login = %v, %v; want %v", region, login, err, want)
		}
		body, _ := io.ReadAll(asked.Body)
		if asked.Method != http.MethodPost || asked.Host != host || asked.URL.Path != "/" || string(body) != "{}" {
			t.Errorf("%s: asked %s %s%s with %q", region, asked.Method, asked.Host, asked.URL, body)
		}
		if got := asked.Header.Get("X-Amz-Target"); got != "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" {
			t.Errorf("%s: target %s", region, got)
		}
		signed := regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/` + region + `/ecr/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=[0-9a-f]{64}$`)
		if got := asked.Header.Get("Authorization"); !signed.MatchString(got) {
			t.Errorf("%s: Authorization %s", region, got)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		answer string
		kind   soulbox.Kind
		msg    string
	}{
		"wrong keys": {
			400, `{"__type":"com.amazon.coral.service#UnrecognizedClientException","message":"The security token included in the request is invalid."}`,
			soulbox.Invalid, "AWS does not let these keys into ECR: UnrecognizedClientException: The security token",
		},
		"no right":          {400, `{"__type":"AccessDeniedException","message":"` + strings.Repeat("x", 5000) + `"}`, soulbox.Invalid, "AccessDeniedException: xxx"},
		"broken":            {500, `{"__type":"ServerException","message":"x"}`, soulbox.Unavailable, "AWS answered 500"},
		"not AWS":           {403, `<html>`, soulbox.Unavailable, "AWS answered 403"},
		"no JSON":           {200, `<html>`, soulbox.Unavailable, "not understood"},
		"nothing":           {200, ``, soulbox.Unavailable, "not understood"},
		"no data":           {200, `{"authorizationData":[]}`, soulbox.Unavailable, "not understood"},
		"not base64":        {200, `{"authorizationData":[{"authorizationToken":"%%%"}]}`, soulbox.Unavailable, "not understood"},
		"no password":       {200, token("AWS:"), soulbox.Unavailable, "not understood"},
		"no user":           {200, token(":x"), soulbox.Unavailable, "not understood"},
		"no colon":          {200, token("AWS"), soulbox.Unavailable, "not understood"},
		"more than is read": {200, token("AWS:" + strings.Repeat("x", 1<<20)), soulbox.Unavailable, "not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := aws(t, tt.status, tt.answer)
			login, err := ecr.Login(t.Context(), client, keys)
			if soulbox.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.msg) || len(err.Error()) > 600 || login != (soulbox.Login{}) {
				t.Errorf("Login = %v, %v; want an error of kind %d with %q", login, err, tt.kind, tt.msg)
			}
			if err != nil && strings.Contains(err.Error(), keys.Secret) {
				t.Errorf("the secret shows in %q", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host"}}
	}}}
	_, err := ecr.Login(t.Context(), client, keys)
	if soulbox.KindOf(err) != soulbox.Unavailable || err.Error() != "AWS cannot be reached at api.ecr.eu-central-1.amazonaws.com" {
		t.Errorf("Login without a network: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, k := range []ecr.Keys{
		{"", "s", "us-east-1"},
		{"a b", "s", "us-east-1"},
		{"a/b", "s", "us-east-1"},
		{strings.Repeat("a", 129), "s", "us-east-1"},
		{"a", "", "us-east-1"},
		{"a", "s\n", "us-east-1"},
		{"a", strings.Repeat("s", 1025), "us-east-1"},
		{"a", "s", ""},
		{"a", "s", "US-EAST-1"},
		{"a", "s", "us-east"},
		{"a", "s", "evil.example/#us-east-1"},
		{"a", "s", "us-east-1.evil.example"},
		{"a", "s", "us-east-1\n"},
	} {
		err := k.Check()
		if soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("%+v: %v, want an Invalid error", k, err)
		}
		client, asked := aws(t, 200, token("AWS:x"))
		if _, err := ecr.Login(t.Context(), client, k); soulbox.KindOf(err) != soulbox.Invalid || asked.Method != "" {
			t.Errorf("Login with %+v: %v after asking %q", k, err, asked.Host)
		}
	}
	for _, region := range []string{"us-east-1", "ap-southeast-2", "us-gov-west-1", "cn-northwest-1", "us-isob-east-1", "me-central-1"} {
		if err := (ecr.Keys{ID: "a", Secret: "s", Region: region}).Check(); err != nil {
			t.Errorf("%s: %v", region, err)
		}
	}
}
