// Command front is the proxy with TLS that docs/configuration.md asks for where
// sandboxes are reached by name, for the end-to-end suite.
//
//	front -listen 127.0.0.1:8443 -domain sandbox.example -to http://127.0.0.1:7070 -ca FILE
//
// Its certificate, for *.DOMAIN, is of an authority of its own, which it writes
// to FILE before it listens.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8443", "`address` to listen on")
	domain := flag.String("domain", "", "`name` below which those of sandboxes are")
	to := flag.String("to", "", "`URL` of the server")
	ca := flag.String("ca", "", "`file` for the certificate to trust")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log, *listen, *domain, *to, *ca); err != nil {
		log.Error("front ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, address, domain, to, ca string) error {
	server, err := url.Parse(to)
	if err != nil {
		return err
	}
	certificate, err := certify(domain, ca)
	if err != nil {
		return fmt.Errorf("make a certificate for %s: %w", domain, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = server.Scheme, server.Host }, // and the Host stays
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// Without this, net/http closes the request's body as soon as the
			// answer begins. A transport that has sent all of it, but has not
			// seen its end yet, takes that for an error and cuts the answer off.
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
			proxy.ServeHTTP(w, r)
		}),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.InfoContext(ctx, "front listens", "address", l.Addr().String())
	return srv.ServeTLS(l, "", "")
}

// certify returns a certificate for all names right below domain, by an
// authority whose own certificate it writes to a file.
func certify(domain, file string) (tls.Certificate, error) {
	var none tls.Certificate
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the suite's authority"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return none, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: domain}, NotBefore: from, NotAfter: until,
		DNSNames: []string{"*." + domain}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, authority, &key.PublicKey, authorityKey)
	if err != nil {
		return none, err
	}
	err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authorityDER}), 0o600)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
