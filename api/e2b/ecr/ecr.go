// Package ecr logs in at Amazon's container registry. Whoever builds on an
// image there has the keys of an account; the registry wants a password that is
// good for twelve hours, which AWS gives to a request that is signed with them.
//
// That one request, and the one kind of signature that it needs, are all there
// is here: AWS's own library is a hundred times the size.
package ecr

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// Keys are who we are at AWS.
type Keys struct {
	ID     string // such as AKIAIOSFODNN7EXAMPLE
	Secret string
	Region string // where the registry is, such as us-east-1
}

// The region becomes part of the name of the host that is asked, so it must
// not hold anything else.
var (
	region = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]{2,20}){1,3}-[0-9]{1,2}$`)
	keyID  = regexp.MustCompile(`^[A-Za-z0-9_]{1,128}$`)
)

// Check returns what is wrong with the keys that can be told without asking.
func (k Keys) Check() error {
	switch {
	case !keyID.MatchString(k.ID):
		return soulbox.Errorf(soulbox.Invalid, "an AWS access key id has letters and digits, at most 128")
	case k.Secret == "" || len(k.Secret) > 1024 || strings.ContainsFunc(k.Secret, func(r rune) bool { return r < ' ' }):
		return soulbox.Errorf(soulbox.Invalid, "an AWS secret access key has 1 to 1024 characters")
	case !region.MatchString(k.Region):
		return soulbox.Errorf(soulbox.Invalid, "%.50q is not an AWS region; us-east-1 is one", k.Region)
	}
	return nil
}

// host is who gives passwords for the registries of a region.
func (k Keys) host() string {
	if strings.HasPrefix(k.Region, "cn-") {
		return "api.ecr." + k.Region + ".amazonaws.com.cn"
	}
	return "api.ecr." + k.Region + ".amazonaws.com"
}

const maxAnswer = 64 << 10 // bytes; a token has about two thousand

// Login asks AWS for what a registry of the region takes as user and password.
// It is good for twelve hours.
func Login(ctx context.Context, client *http.Client, k Keys) (soulbox.Login, error) {
	if err := k.Check(); err != nil {
		return soulbox.Login{}, err
	}
	body := []byte("{}")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.host()+"/", bytes.NewReader(body))
	if err != nil {
		return soulbox.Login{}, fmt.Errorf("log in at ECR: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
	sign(req, body, k, "ecr", time.Now())

	res, err := client.Do(req)
	if err != nil {
		return soulbox.Login{}, soulbox.Hide(soulbox.Unavailable, err, "AWS cannot be reached at "+k.host())
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return soulbox.Login{}, soulbox.Hide(soulbox.Unavailable, err, "AWS did not answer to the end")
	}
	if res.StatusCode != http.StatusOK {
		return soulbox.Login{}, refused(res.StatusCode, answer)
	}
	login, err := parse(answer)
	if err != nil {
		return soulbox.Login{}, soulbox.Hide(soulbox.Unavailable, err, "AWS gave an answer that is not understood")
	}
	return login, nil
}

// refused is the error of an answer that is one.
func refused(status int, answer []byte) error {
	var why struct {
		Type    string `json:"__type"` // may have a prefix that ends in #
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &why); err != nil || why.Type == "" || status >= http.StatusInternalServerError {
		return soulbox.Errorf(soulbox.Unavailable, "AWS answered %d instead of a password for ECR", status)
	}
	return soulbox.Errorf(soulbox.Invalid, "AWS does not let these keys into ECR: %.100s: %.300s",
		why.Type[strings.LastIndexByte(why.Type, '#')+1:], why.Message)
}

// parse reads the password out of a good answer.
func parse(answer []byte) (soulbox.Login, error) {
	var a struct {
		Data []struct {
			Token string `json:"authorizationToken"` // base64 of user:password
		} `json:"authorizationData"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return soulbox.Login{}, err
	}
	if len(a.Data) == 0 {
		return soulbox.Login{}, errors.New("no authorizationData")
	}
	plain, err := base64.StdEncoding.DecodeString(a.Data[0].Token)
	if err != nil {
		return soulbox.Login{}, err
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if !ok || user == "" || password == "" {
		return soulbox.Login{}, errors.New("the token is not user:password")
	}
	return soulbox.Login{User: user, Password: password}, nil
}
