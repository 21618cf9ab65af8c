package templates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const (
	trustedBundle = "etc/ssl/certs/ca-certificates.crt" // what programs read
	trustedOwn    = "usr/share/ca-certificates"         // the distribution's, one a file
	trustedAdded  = "usr/local/share/ca-certificates"   // for update-ca-certificates to add to them
)

// addedCertificates returns the certificate authorities that a machine trusts
// and its distribution does not: those of a network that looks into TLS, which
// nothing is downloaded through without them. As with the mirror, what this
// machine needs its sandboxes need. host is its root folder; one that keeps its
// certificates in other places than Debian has none.
func addedCertificates(host fs.FS) ([]*x509.Certificate, error) {
	bundle, err := fs.ReadFile(host, trustedBundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what this machine trusts: %w", err)
	}
	own := map[string]bool{} // by content
	err = fs.WalkDir(host, trustedOwn, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(host, name)
		for _, c := range certificates(b) {
			own[string(c.Raw)] = true
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // no telling whose they are
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what this machine trusts: %w", err)
	}
	var added []*x509.Certificate
	for _, c := range certificates(bundle) {
		if !own[string(c.Raw)] {
			own[string(c.Raw)] = true
			added = append(added, c)
		}
	}
	return added, nil
}

// certificates returns those that a PEM file holds and that can be read.
func certificates(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, c)
		}
	}
}

// trust has a tree trust further certificate authorities, now and when
// update-ca-certificates makes its list again.
func trust(root *os.Root, added []*x509.Certificate) error {
	if len(added) == 0 {
		return nil
	}
	bundle, err := root.ReadFile(trustedBundle)
	if err != nil {
		return err
	}
	for i, c := range added {
		var text bytes.Buffer
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return err
		}
		if err := put(root, fmt.Sprintf("%s/machine-%d.crt", trustedAdded, i+1), text.Bytes()); err != nil {
			return err
		}
		bundle = append(bundle, text.Bytes()...)
	}
	return put(root, trustedBundle, bundle)
}
