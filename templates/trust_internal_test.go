package templates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// authority returns a certificate in PEM.
func authority(t *testing.T, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestAddedCertificates(t *testing.T) {
	ours, corporate, second := authority(t, 1), authority(t, 2), authority(t, 3)
	const bundle, own = trustedBundle, trustedOwn + "/mozilla/ours.crt"
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, tt := range []struct {
		name string
		host fstest.MapFS
		want []int64
	}{
		{"the distribution's only", fstest.MapFS{bundle: file(ours), own: file(ours)}, nil},
		{"two more, one of them twice", fstest.MapFS{bundle: file(ours + corporate + second + corporate), own: file(ours)}, []int64{2, 3}},
		{"what is no certificate", fstest.MapFS{bundle: file("# words\n" + ours + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + second), own: file(ours)}, []int64{3}},
		{"no list", fstest.MapFS{own: file(ours)}, nil},
		{"a distribution that keeps its own elsewhere", fstest.MapFS{bundle: file(ours + corporate)}, nil},
	} {
		added, err := addedCertificates(tt.host)
		var got []int64
		for _, c := range added {
			got = append(got, c.SerialNumber.Int64())
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, diff)
		}
	}
}

func TestTrust(t *testing.T) {
	ours, corporate := authority(t, 1), authority(t, 2)
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := trust(root, nil); err != nil {
		t.Errorf("nothing to add needs no list: %v", err)
	}
	if err := trust(root, certificates([]byte(corporate))); err == nil {
		t.Error("trust in a tree without a list: no error")
	}
	if err := put(root, trustedBundle, []byte(ours)); err != nil {
		t.Fatal(err)
	}
	if err := trust(root, certificates([]byte(corporate))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{trustedBundle: ours + corporate, trustedAdded + "/machine-1.crt": corporate} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, %q; want %q", name, err, got, want)
		}
	}
}
