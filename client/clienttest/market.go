package clienttest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

func (s *Server) marketRoutes(mux *http.ServeMux) {
	const one = "/v1/templates/{id}"
	mux.HandleFunc("GET /v1/categories", s.listCategories)
	mux.HandleFunc("GET "+one, s.withShelf(s.getTemplate))
	mux.HandleFunc("PATCH "+one, s.withShelf(s.changeTemplate))
	mux.HandleFunc("GET "+one+"/readme", s.withShelf(s.getReadme))
	mux.HandleFunc("PUT "+one+"/readme", s.withShelf(s.setReadme))
	mux.HandleFunc("POST "+one+"/publish", s.withShelf(s.publish))
	mux.HandleFunc("POST "+one+"/unpublish", s.withShelf(s.publish))
	mux.HandleFunc("PUT "+one+"/rating", s.withShelf(s.rate))
	mux.HandleFunc("DELETE "+one+"/rating", s.withShelf(s.rate))
	mux.HandleFunc("POST "+one+"/report", s.withShelf(s.report))
	mux.HandleFunc("POST "+one+"/fork", s.withShelf(s.forkTemplate))
	mux.HandleFunc("GET "+one+"/versions", s.withShelf(s.listVersions))
	mux.HandleFunc("GET "+one+"/versions/{a}/diff/{b}", s.withShelf(s.diffVersions))
	mux.HandleFunc("PUT "+one+"/versions/{version}/deprecation", s.withShelf(s.deprecate))
	mux.HandleFunc("DELETE "+one+"/versions/{version}/deprecation", s.withShelf(s.deprecate))
	mux.HandleFunc("POST "+one+"/promote", s.withShelf(s.promote))
	mux.HandleFunc("POST "+one+"/rollback", s.withShelf(s.rollbackTemplate))
	mux.HandleFunc("GET "+one+"/tags", s.withShelf(s.listTags))
	mux.HandleFunc("DELETE "+one+"/tags/{tag}", s.withShelf(s.removeTag))
	mux.HandleFunc("GET "+one+"/facts", s.withShelf(s.facts))
	mux.HandleFunc("GET "+one+"/sbom", s.withShelf(s.sbom))
	mux.HandleFunc("GET "+one+"/export", s.withShelf(s.export))
}

// described is a template with its listing.
//
// +checklocks:s.mu
func (s *Server) described(t template) map[string]any {
	_, sh := s.shelfOf(t.Name)
	b, _ := json.Marshal(t) // it was made of JSON
	out := map[string]any{}
	_ = json.Unmarshal(b, &out) // as above
	out["listing"] = sh.listing
	return out
}

// search answers a list that was asked for with words.
//
// +checklocks:s.mu
func (s *Server) search(w http.ResponseWriter, r *http.Request, all []template) {
	query := r.URL.Query()
	found := []map[string]any{}
	for _, t := range all {
		d := s.described(t)
		text, _ := json.Marshal(d) // it was made of JSON
		if strings.Contains(string(text), query.Get("q")) && strings.Contains(string(text), query.Get("category")) {
			found = append(found, d)
		}
	}
	total := len(found)
	found, next := page(r, found)
	answer(w, http.StatusOK, map[string]any{"templates": found, "next": next, "total": total})
}

func (s *Server) listCategories(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"categories": []any{map[string]any{"category": "data", "templates": 2}}})
}

func (s *Server) getTemplate(w http.ResponseWriter, _ *http.Request, t template, sh *shelf) {
	out := s.described(t)
	out["tags"] = sh.tagList()
	answer(w, http.StatusOK, out)
}

func (sh *shelf) tagList() []map[string]any {
	list := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(sh.tags)) {
		list = append(list, map[string]any{"tag": name, "build": sh.tags[name], "since": time.Now()})
	}
	return list
}

func (s *Server) changeTemplate(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in map[string]any
	if !decode(w, r, &in) {
		return
	}
	if class, ok := in["isolation"]; ok {
		t.Isolation, t.UpdatedAt = fmt.Sprint(class), time.Now()
		if !knownClass(w, t.Isolation) {
			return
		}
		s.templates[t.Name] = t
		delete(in, "isolation")
	}
	maps.Copy(sh.listing, in)
	answer(w, http.StatusOK, s.described(t))
}

func (s *Server) getReadme(w http.ResponseWriter, _ *http.Request, t template, sh *shelf) {
	if sh.readme == "" {
		refuse(w, http.StatusNotFound, "template '"+t.Name+"' has no readme")
		return
	}
	_, _ = io.WriteString(w, sh.readme) // the client has gone if this fails
}

func (s *Server) setReadme(w http.ResponseWriter, r *http.Request, _ template, sh *shelf) {
	b, _ := io.ReadAll(r.Body) // the client has gone if this fails
	sh.readme = string(b)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) publish(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	t.Public = strings.HasSuffix(r.URL.Path, "/publish")
	s.templates[t.Name] = t
	delete(sh.listing, "published_at")
	if t.Public {
		sh.listing["published_at"] = time.Now()
	}
	answer(w, http.StatusOK, s.described(t))
}

func (s *Server) rate(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in struct {
		Stars int `json:"stars"`
	}
	if r.Method == http.MethodPut && !decode(w, r, &in) {
		return
	}
	sh.listing["mine"], sh.listing["stars"], sh.listing["ratings"] = in.Stars, in.Stars, min(in.Stars, 1)
	answer(w, http.StatusOK, s.described(t))
}

func (s *Server) report(w http.ResponseWriter, r *http.Request, _ template, _ *shelf) {
	var in struct {
		Reason string `json:"reason"`
	}
	if !decode(w, r, &in) {
		return
	}
	if in.Reason == "" {
		refuse(w, http.StatusBadRequest, "reason is needed: what is wrong with the template")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) forkTemplate(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in struct {
		Name string `json:"name"`
		At   string `json:"at"`
	}
	if !decode(w, r, &in) || sh.at(w, in.At) == nil {
		return
	}
	if _, taken := s.templates[in.Name]; taken || in.Name == "" {
		refuse(w, http.StatusConflict, "there is a template '"+in.Name+"' already")
		return
	}
	of := t.ID
	t.ID, t.Name, t.Public = "t"+in.Name, in.Name, false
	s.templates[in.Name] = t
	_, made := s.shelfOf(in.Name)
	made.listing["fork_of"] = of
	answer(w, http.StatusCreated, t)
}

// at returns the build that a reference leads to, nil if it was refused.
func (sh *shelf) at(w http.ResponseWriter, ref string) *build {
	versions, err := soulbox.ParseVersionRange(ref)
	var found *build
	for _, b := range sh.builds {
		switch {
		case b.State != soulbox.BuildReady:
		case string(b.ID) == ref:
			return b
		case err == nil && versions.Holds(b.version) && (found == nil || b.version.Compare(found.version) > 0):
			found = b
		case err != nil && sh.tags[cmp.Or(strings.TrimPrefix(ref, ":"), soulbox.DefaultTag)] == b.ID:
			found = b
		}
	}
	if found == nil {
		refuse(w, http.StatusNotFound, "there is no version, tag or build '"+ref+"'")
	}
	return found
}

func (s *Server) listVersions(w http.ResponseWriter, _ *http.Request, t template, sh *shelf) {
	list := []map[string]any{}
	for _, b := range slices.Backward(sh.builds) {
		if b.State == soulbox.BuildReady {
			list = append(list, sh.version(t, b))
		}
	}
	answer(w, http.StatusOK, map[string]any{"versions": list})
}

func (sh *shelf) version(t template, b *build) map[string]any {
	tags := []string{}
	for name, id := range sh.tags {
		if id == b.ID {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	return map[string]any{
		"version": b.Version, "build": b.ID, "created_at": b.EndedAt, "tags": tags, "deprecated": b.deprecated, "base": b.base(),
		"bytes": 120 << 20, "cpus": t.CPUs, "memory_mib": t.MemoryMiB, "disk_mib": t.DiskMiB, "isolation": t.Isolation, "started": b.Recipe.Start != "",
	}
}

func (b *build) base() string {
	first, _, _ := strings.Cut(b.Recipe.Dockerfile, "\n")
	return strings.TrimPrefix(first, "FROM ")
}

// diffVersions compares lines, whatever their order.
func (s *Server) diffVersions(w http.ResponseWriter, r *http.Request, _ template, sh *shelf) {
	a := sh.at(w, r.PathValue("a"))
	if a == nil {
		return
	}
	b := sh.at(w, r.PathValue("b"))
	if b == nil {
		return
	}
	var recipe strings.Builder
	before, after := strings.Split(a.Recipe.Dockerfile, "\n"), strings.Split(b.Recipe.Dockerfile, "\n")
	for _, line := range before {
		if !slices.Contains(after, line) {
			recipe.WriteString("-" + line + "\n")
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			recipe.WriteString("+" + line + "\n")
		}
	}
	values := []map[string]any{}
	if a.base() != b.base() {
		values = append(values, map[string]any{"kind": soulbox.Changed, "name": "base", "before": a.base(), "after": b.base()})
	}
	packages := []map[string]any{}
	if strings.Contains(b.Recipe.Dockerfile, "numpy") {
		packages = append(packages, map[string]any{"kind": soulbox.Created, "manager": "pip", "name": "numpy", "after": "2.1.0"})
	}
	answer(w, http.StatusOK, map[string]any{
		"before": map[string]any{"version": a.Version, "build": a.ID}, "after": map[string]any{"version": b.Version, "build": b.ID}, "bump": soulbox.Minor,
		"recipe": recipe.String(), "packages": packages, "env": []any{}, "ports": []any{}, "values": values,
	})
}

func (s *Server) deprecate(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in struct {
		Reason string `json:"reason"`
	}
	if r.Method == http.MethodPut && !decode(w, r, &in) {
		return
	}
	if b := sh.at(w, r.PathValue("version")); b != nil {
		b.deprecated = in.Reason
		answer(w, http.StatusOK, sh.version(t, b))
	}
}

func (s *Server) promote(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in struct {
		To  string `json:"to"`
		Tag string `json:"tag"`
	}
	if !decode(w, r, &in) {
		return
	}
	if b := sh.at(w, in.To); b != nil {
		s.lead(t, sh, cmp.Or(in.Tag, soulbox.DefaultTag), b)
		answer(w, http.StatusOK, sh.version(t, b))
	}
}

// lead lets a tag lead to a build.
//
// +checklocks:s.mu
func (s *Server) lead(t template, sh *shelf, tag string, b *build) {
	sh.tags[tag] = b.ID
	if tag == soulbox.DefaultTag {
		t.Build, t.Version, t.Source = string(b.ID), b.Version, b.base()
		s.templates[t.Name] = t
	}
}

func (s *Server) rollbackTemplate(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	var in struct {
		To string `json:"to"`
	}
	if !decode(w, r, &in) {
		return
	}
	var to *build
	if in.To != "" {
		if to = sh.at(w, in.To); to == nil {
			return
		}
	} else {
		now := sh.at(w, "")
		if now == nil {
			return
		}
		for _, b := range sh.builds {
			if b.State == soulbox.BuildReady && b.version.Compare(now.version) < 0 && (to == nil || b.version.Compare(to.version) > 0) {
				to = b
			}
		}
		if to == nil {
			refuse(w, http.StatusConflict, "there is no version before "+now.Version)
			return
		}
	}
	s.lead(t, sh, soulbox.DefaultTag, to)
	answer(w, http.StatusOK, sh.version(t, to))
}

func (s *Server) listTags(w http.ResponseWriter, _ *http.Request, _ template, sh *shelf) {
	answer(w, http.StatusOK, map[string]any{"tags": sh.tagList()})
}

func (s *Server) removeTag(w http.ResponseWriter, r *http.Request, _ template, sh *shelf) {
	tag := r.PathValue("tag")
	if _, ok := sh.tags[tag]; !ok || tag == soulbox.DefaultTag {
		refuse(w, http.StatusNotFound, "tag '"+tag+"' does not exist")
		return
	}
	delete(sh.tags, tag)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) facts(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	b := sh.at(w, r.URL.Query().Get("at"))
	if b == nil {
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"template": t.ID, "build": b.ID, "version": b.Version, "image": strings.Repeat("ab", 32), "base": b.base(), "distribution": "Debian GNU/Linux 12 (bookworm)",
		"packages": []any{map[string]any{"manager": "dpkg", "name": "bash", "version": "5.2"}}, "env": map[string]any{"PATH": "/bin"}, "ports": []string{"8080/tcp"},
		"volumes": []string{}, "entrypoint": []string{}, "command": []string{"serve", "--all"}, "labels": map[string]any{}, "user": "user", "workdir": "/home/user",
		"cpus": t.CPUs, "memory_mib": t.MemoryMiB, "disk_mib": t.DiskMiB, "isolation": t.Isolation, "bytes": 120 << 20, "layers": 3, "snapshot_bytes": 12 << 20,
	})
}

func (s *Server) sbom(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	if b := sh.at(w, r.URL.Query().Get("at")); b != nil {
		answer(w, http.StatusOK, map[string]any{"spdxVersion": "SPDX-2.3", "name": t.Name + "@" + b.Version})
	}
}

func (s *Server) export(w http.ResponseWriter, r *http.Request, t template, sh *shelf) {
	if b := sh.at(w, r.URL.Query().Get("at")); b != nil {
		_, _ = io.WriteString(w, "an archive of "+t.Name+" "+b.Version) // the client has gone if this fails
	}
}
