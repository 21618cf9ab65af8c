package facts_test

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/facts"
)

func TestSBOM(t *testing.T) {
	b := &soulbox.Build{
		ID: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6", Version: soulbox.Version{Major: 1, Minor: 2},
		EndedAt: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC),
		Facts: soulbox.BuildFacts{
			Base: "debian:bookworm@sha256:00", Distribution: "Debian GNU/Linux 12 (bookworm)",
			Packages: []soulbox.Package{
				{Manager: "dpkg", Name: "libstdc++6", Version: "12.2.0-14+deb12u1"},
				{Manager: "npm", Name: "@scope/pkg", Version: "0.1.0"},
				{Manager: "pip", Name: "Zope_Interface", Version: "6.0"},
				{Manager: "rpm", Name: "odd \"name\"", Version: ""},
			},
		},
	}
	out, err := facts.SBOM("acme/app", b)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Version   string `json:"spdxVersion"`
		Licence   string `json:"dataLicense"`
		ID        string `json:"SPDXID"`
		Name      string `json:"name"`
		Namespace string `json:"documentNamespace"`
		Creation  struct {
			Created  string   `json:"created"`
			Creators []string `json:"creators"`
		} `json:"creationInfo"`
		Packages []struct {
			ID       string `json:"SPDXID"`
			Name     string `json:"name"`
			Location string `json:"downloadLocation"`
			Refs     []struct {
				Category string `json:"referenceCategory"`
				Type     string `json:"referenceType"`
				Locator  string `json:"referenceLocator"`
			} `json:"externalRefs"`
		} `json:"packages"`
		Relationships []struct {
			From string `json:"spdxElementId"`
			Kind string `json:"relationshipType"`
			To   string `json:"relatedSpdxElement"`
		} `json:"relationships"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "SPDX-2.3" || doc.Licence != "CC0-1.0" || doc.ID != "SPDXRef-DOCUMENT" || doc.Name != "acme/app@1.2.0" ||
		doc.Namespace != "urn:uuid:f81d4fae-7dec-41d0-a765-00a0c91e6bf6" || doc.Creation.Created != "2026-03-01T12:00:00Z" || len(doc.Creation.Creators) != 1 {
		t.Errorf("the document begins with %+v", doc)
	}
	var urls []string
	ids := map[string]bool{doc.ID: true}
	for _, p := range doc.Packages {
		if !regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`).MatchString(p.ID) || ids[p.ID] || p.Name == "" || p.Location == "" {
			t.Errorf("package %+v", p)
		}
		ids[p.ID] = true
		for _, r := range p.Refs {
			if r.Category != "PACKAGE-MANAGER" || r.Type != "purl" {
				t.Errorf("reference %+v", r)
			}
			urls = append(urls, r.Locator)
		}
	}
	want := []string{
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1", "pkg:npm/%40scope/pkg@0.1.0",
		"pkg:pypi/zope-interface@6.0", "pkg:rpm/debian/odd%20%22name%22",
	}
	if diff := cmp.Diff(want, urls); diff != "" {
		t.Errorf("package URLs (-want +got):\n%s", diff)
	}
	contained := 0
	for _, r := range doc.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("relationship %+v is not between what there is", r)
		}
		if r.Kind == "CONTAINS" {
			contained++
		}
	}
	if contained != 4 || doc.Relationships[0].Kind != "DESCRIBES" {
		t.Errorf("relationships %+v", doc.Relationships)
	}
}
