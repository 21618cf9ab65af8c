// Package s3 keeps blobs in a bucket of Amazon's S3, or of what speaks its
// protocol. A blob is an object that is named by its digest.
//
// Objects come into being whole: a small one in one request, of bytes whose
// digest was compared before; a large one in parts, which are put together when
// the digest of all of them was. Parts of what a crash has cut off stay until
// [Open] finds them, a day later.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
)

// Options say where the bucket is and who we are there.
type Options struct {
	Bucket   string
	Prefix   string // of the objects' names; may be empty
	Endpoint string // such as http://localhost:9000; empty: Amazon's
	Region   string // empty: what AWS's own configuration says, else us-east-1

	// Key and Secret are who we are; empty: what AWS's own configuration says,
	// which is its environment variables, its files, or its machines.
	Key, Secret string
}

// A Store keeps blobs in a bucket. Safe for concurrent use.
type Store struct {
	Options

	api *s3.Client
}

const (
	// partSize is what a blob is sent in that is larger. S3 takes 10,000 parts,
	// which is 160 GB.
	partSize = 16 << 20

	// abandoned is how old the parts of an unfinished object are when nobody
	// will finish it any more.
	abandoned = 24 * time.Hour
)

// ParseURL reads s3://BUCKET/PREFIX.
func ParseURL(s string) (bucket, prefix string, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" {
		return "", "", soulbox.Errorf(soulbox.Invalid, "%q: write s3://BUCKET or s3://BUCKET/PREFIX", s)
	}
	return u.Host, strings.Trim(path.Clean("/"+u.Path), "/"), nil
}

// Open returns the store after a look whether the bucket is there, and removes
// what was abandoned in it.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", o.Bucket, err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	load := []func(*config.LoadOptions) error{config.WithDefaultRegion("us-east-1")}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Key != "" {
		load = append(load, config.WithCredentialsProvider(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: o.Key, SecretAccessKey: o.Secret}, nil
		})))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, soulbox.Hide(soulbox.Invalid, err, "the configuration of AWS cannot be read")
	}
	s := &Store{Options: o, api: s3.NewFromConfig(cfg, func(so *s3.Options) {
		// Only what every server that speaks S3 understands.
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(o.Endpoint)
			so.UsePathStyle = true // few of them have a name for each bucket
		}
	})}
	if _, err := s.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &o.Bucket}); err != nil {
		if status(err) == http.StatusNotFound {
			return nil, soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("there is no bucket %q; make one", o.Bucket))
		}
		return nil, soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the bucket %q cannot be reached: %v", o.Bucket, err))
	}
	return s, s.tidy(ctx, time.Now().Add(-abandoned))
}

// tidy removes the parts of objects that were begun before a time.
func (s *Store) tidy(ctx context.Context, before time.Time) error {
	pages := s3.NewListMultipartUploadsPaginator(s.api, &s3.ListMultipartUploadsInput{Bucket: &s.Bucket, Prefix: aws.String(s.name(""))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if u.Initiated != nil && u.Initiated.Before(before) {
				_, err := s.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.Bucket, Key: u.Key, UploadId: u.UploadId})
				if err != nil && status(err) != http.StatusNotFound {
					return err
				}
			}
		}
	}
	return nil
}

// name returns what an object is called.
func (s *Store) name(hex string) string {
	if s.Prefix == "" {
		return "sha256/" + hex
	}
	return s.Prefix + "/sha256/" + hex
}

func (s *Store) key(d soulbox.Digest) *string { return aws.String(s.name(d.Hex())) }

// status returns the HTTP status that an error came with; 0: none.
func status(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, d soulbox.Digest, size int64, r io.Reader) error {
	if err := s.put(ctx, d, blob.Check(r, d, size)); err != nil {
		return fmt.Errorf("put blob %s: %w", d, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, d soulbox.Digest, r io.Reader) error {
	buf := make([]byte, partSize)
	n, whole, err := fill(r, buf)
	if err != nil {
		return err
	}
	if whole {
		_, err := s.api.PutObject(ctx, &s3.PutObjectInput{Bucket: &s.Bucket, Key: s.key(d), Body: bytes.NewReader(buf[:n])})
		return err
	}
	up, err := s.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.Bucket, Key: s.key(d)})
	if err != nil {
		return err
	}
	parts, err := s.parts(ctx, d, up.UploadId, buf, r)
	if err == nil {
		_, err = s.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.Bucket, Key: s.key(d), UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		// The first error is the one that matters; what cannot be removed now is abandoned.
		_, _ = s.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.Bucket, Key: s.key(d), UploadId: up.UploadId})
	}
	return err
}

// parts sends what is in buf, which is full, and then what r has.
func (s *Store) parts(ctx context.Context, d soulbox.Digest, upload *string, buf []byte, r io.Reader) ([]types.CompletedPart, error) {
	var done []types.CompletedPart
	for n, last := len(buf), false; n > 0; {
		number := aws.Int32(int32(len(done) + 1)) // S3 refuses the ten thousand and first
		part, err := s.api.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.Bucket, Key: s.key(d), UploadId: upload, PartNumber: number, Body: bytes.NewReader(buf[:n]),
		})
		if err != nil {
			return nil, err
		}
		done = append(done, types.CompletedPart{ETag: part.ETag, PartNumber: number})
		if last {
			break
		}
		if n, last, err = fill(r, buf); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// fill reads until buf is full or r ends, and reports the latter.
func fill(r io.Reader, buf []byte) (n int, end bool, err error) {
	n, err = io.ReadFull(r, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, true, nil
	}
	return n, false, err
}

// Open implements [blob.Store].
func (s *Store) Open(ctx context.Context, d soulbox.Digest, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		_, err := s.Stat(ctx, d) // no range of S3's is empty
		return io.NopCloser(strings.NewReader("")), err
	}
	in := &s3.GetObjectInput{Bucket: &s.Bucket, Key: s.key(d)}
	switch {
	case length > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.api.GetObject(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, none(d, err))
	}
	return out.Body, nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, d soulbox.Digest) (blob.Info, error) {
	out, err := s.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.Bucket, Key: s.key(d)})
	if err != nil {
		return blob.Info{}, fmt.Errorf("look at blob %s: %w", d, none(d, err))
	}
	return blob.Info{Digest: d, Size: aws.ToInt64(out.ContentLength), At: aws.ToTime(out.LastModified)}, nil
}

func none(d soulbox.Digest, err error) error {
	if status(err) == http.StatusNotFound {
		return blob.None(d)
	}
	return err
}

// Delete implements [blob.Store].
func (s *Store) Delete(ctx context.Context, d soulbox.Digest) error {
	_, err := s.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.Bucket, Key: s.key(d)})
	if err != nil && status(err) != http.StatusNotFound {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return nil
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		pages := s3.NewListObjectsV2Paginator(s.api, &s3.ListObjectsV2Input{Bucket: &s.Bucket, Prefix: aws.String(s.name(""))})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(blob.Info{}, fmt.Errorf("list blobs: %w", err))
				return
			}
			for _, o := range page.Contents {
				d, err := soulbox.ParseDigest("sha256:" + strings.TrimPrefix(aws.ToString(o.Key), s.name("")))
				if err != nil {
					continue // not ours
				}
				if !yield(blob.Info{Digest: d, Size: aws.ToInt64(o.Size), At: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}
