package facts

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// These are the parts of a document of SPDX 2.3 that ours have; see
// https://spdx.github.io/spdx-spec/v2.3/.
type (
	document struct {
		Version       string         `json:"spdxVersion"`
		Licence       string         `json:"dataLicense"`
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Namespace     string         `json:"documentNamespace"`
		Creation      creation       `json:"creationInfo"`
		Packages      []spdxPackage  `json:"packages"`
		Relationships []relationship `json:"relationships"`
	}
	creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID       string      `json:"SPDXID"`
		Name     string      `json:"name"`
		Version  string      `json:"versionInfo,omitempty"`
		Location string      `json:"downloadLocation"`
		Analyzed bool        `json:"filesAnalyzed"`
		Purpose  string      `json:"primaryPackagePurpose,omitempty"`
		Comment  string      `json:"comment,omitempty"`
		Refs     []reference `json:"externalRefs,omitempty"`
	}
	reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	relationship struct {
		From string `json:"spdxElementId"`
		Kind string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	documentID  = "SPDXRef-DOCUMENT"
	templateID  = "SPDXRef-Template"
	noAssertion = "NOASSERTION"
)

// SBOM returns what is in a ready build of the template called name, as SPDX 2.3
// in JSON. The same build gives the same document.
func SBOM(name string, b *soulbox.Build) ([]byte, error) {
	full := name + "@" + b.Version.String()
	d := document{
		Version: "SPDX-2.3", Licence: "CC0-1.0", ID: documentID, Name: full,
		Namespace: "urn:uuid:" + string(b.ID),
		Creation:  creation{b.EndedAt.UTC().Truncate(time.Second).Format(time.RFC3339), []string{"Tool: soulbox"}},
		Packages: []spdxPackage{{
			ID: templateID, Name: name, Version: b.Version.String(), Location: noAssertion, Purpose: "CONTAINER",
			Comment: "built on " + b.Facts.Base,
		}},
		Relationships: []relationship{{documentID, "DESCRIBES", templateID}},
	}
	for i, p := range b.Facts.Packages {
		id := fmt.Sprintf("SPDXRef-Package-%d", i+1)
		d.Packages = append(d.Packages, spdxPackage{
			ID: id, Name: p.Name, Version: p.Version, Location: noAssertion,
			Refs: []reference{{"PACKAGE-MANAGER", "purl", packageURL(p, b.Facts.Distribution)}},
		})
		d.Relationships = append(d.Relationships, relationship{templateID, "CONTAINS", id})
	}
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the SBOM of build %s: %w", b.ID, err)
	}
	return append(out, '\n'), nil
}

// purlTypes are what package URLs call the managers; see
// https://github.com/package-url/purl-spec.
var purlTypes = map[string]string{"dpkg": "deb", "apk": "apk", "rpm": "rpm", "pip": "pypi", "npm": "npm"}

// packageURL returns the package URL of p. Those of a distribution are named
// after it, and the word that its name begins with is what they use.
func packageURL(p soulbox.Package, distribution string) string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	name := escape(p.Name)
	switch p.Manager {
	case "dpkg", "apk", "rpm":
		if words := strings.Fields(strings.ToLower(distribution)); len(words) > 0 {
			name = escape(words[0]) + "/" + name
		}
	case "pip":
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	case "npm":
		if scope, rest, ok := strings.Cut(p.Name, "/"); ok {
			name = escape(scope) + "/" + escape(rest)
		}
	}
	s := "pkg:" + purlTypes[p.Manager] + "/" + name
	if p.Version != "" {
		s += "@" + escape(p.Version)
	}
	return s
}
