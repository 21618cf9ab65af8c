package lab

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/soulbox/soulbox"
)

// An object is data in a bucket.
type object struct {
	Bucket   string `json:"bucket"`
	Key      string `json:"key"`
	Region   string `json:"region"`
	Endpoint string `json:"endpoint"` // empty: Amazon's

	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	SessionToken    string `json:"session_token"`
}

// signedFor is how long the sandbox may take to begin with the download.
const signedFor = 15 * time.Minute

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

const (
	maxKey    = 1024
	maxSecret = 8 << 10 // session tokens are long
)

// check returns what is wrong with o.
func (o *object) check() error {
	u, err := url.Parse(o.Endpoint)
	switch {
	case !bucketName.MatchString(o.Bucket):
		return soulbox.Errorf(soulbox.Invalid, "s3.bucket: %.80q is not the name of a bucket", o.Bucket)
	case o.Key == "" || len(o.Key) > maxKey || !utf8.ValidString(o.Key) || strings.ContainsRune(o.Key, 0):
		return soulbox.Errorf(soulbox.Invalid, "s3.key must have between 1 and %d bytes", maxKey)
	case !regionName.MatchString(o.Region):
		return soulbox.Errorf(soulbox.Invalid, "s3.region: %.80q is not the name of a region, such as eu-central-1", o.Region)
	case o.Endpoint != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(o.Endpoint) > maxPath):
		return soulbox.Errorf(soulbox.Invalid, "s3.endpoint must be a URL such as https://storage.example.com")
	case o.AccessKeyID == "" || o.SecretAccessKey == "":
		return soulbox.Errorf(soulbox.Invalid, "s3 needs access_key_id and secret_access_key; use url for what everybody may read")
	case len(o.AccessKeyID)+len(o.SecretAccessKey)+len(o.SessionToken) > maxSecret:
		return soulbox.Errorf(soulbox.Invalid, "s3: the credentials have more than %d bytes", maxSecret)
	}
	return nil
}

// presign returns a URL from which the object can be read for a while. It talks
// to nobody: the download is the sandbox's, and so are the rules for it.
func (o *object) presign(ctx context.Context) (string, error) {
	opts := s3.Options{
		Region: o.Region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: o.AccessKeyID, SecretAccessKey: o.SecretAccessKey, SessionToken: o.SessionToken}, nil
		}),
		DisableS3ExpressSessionAuth: aws.Bool(true), // would ask the bucket for a session
		HTTPClient:                  nobody{},
	}
	if o.Endpoint != "" {
		opts.BaseEndpoint, opts.UsePathStyle = aws.String(o.Endpoint), true
	}
	signed, err := s3.NewPresignClient(s3.New(opts)).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &o.Bucket, Key: &o.Key}, s3.WithPresignExpires(signedFor))
	if err != nil {
		return "", soulbox.Hide(soulbox.Invalid, err, "a URL of this object cannot be signed; look at its bucket, region and endpoint")
	}
	return signed.URL, nil
}

// nobody is asked for nothing.
type nobody struct{}

// Do refuses.
func (nobody) Do(*http.Request) (*http.Response, error) { return nil, http.ErrNotSupported }
