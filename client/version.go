package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/soulbox/soulbox"
)

// A TemplateVersion is one build of a template that is ready.
type TemplateVersion struct {
	Version    soulbox.Version
	Build      string // its id
	CreatedAt  time.Time
	Tags       []string // that lead to it now
	Deprecated string   // why nobody should start it any more; empty: it is fine
	Base       string   // the image or template that it is built on, with its digest
	Bytes      soulbox.Bytes
	CPUs       int
	Memory     soulbox.Bytes
	Disk       soulbox.Bytes
	Isolation  soulbox.Isolation
	Started    bool // its start command runs in its sandboxes from the beginning
}

// Versions returns the versions of a template, the newest first.
func (t *Templates) Versions(ctx context.Context, template string) ([]*TemplateVersion, error) {
	path, err := templatePath(template, "/versions")
	if err != nil {
		return nil, err
	}
	var out struct {
		Versions []versionWire `json:"versions"`
	}
	if err := t.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	var list []*TemplateVersion
	for _, w := range out.Versions {
		list = append(list, w.version())
	}
	return list, nil
}

// Facts tells what was found out about a version: its packages, environment,
// ports, size and more. at is a version, a range of them as in ^1.4, a tag or the
// id of a build; empty, it is what the tag "default" leads to. Where a tag looks
// like a version, a colon before it says that it is one.
func (t *Templates) Facts(ctx context.Context, template, at string) (*soulbox.Build, error) {
	path, err := templatePath(template, "/facts")
	if err != nil {
		return nil, err
	}
	var out factsWire
	if err := t.c.call(ctx, http.MethodGet, path, atQuery(at), nil, &out); err != nil {
		return nil, err
	}
	return out.build(), nil
}

// Diff tells what two versions of a template do not have in common; how they were
// built, only to the template's team. They are named as in [Templates.Facts]. Of
// the two builds in the answer only the ids and versions are set.
func (t *Templates) Diff(ctx context.Context, template, before, after string) (*soulbox.BuildDiff, error) {
	path, err := versionPath(template, before, "/diff/"+url.PathEscape(after))
	if err != nil {
		return nil, err
	}
	if after == "" {
		return nil, noVersion(after)
	}
	var out diffWire
	if err := t.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	return out.diff(), nil
}

// Promote lets a tag, or "default" if it is empty, lead to a version, which is
// named as in [Templates.Facts]. Sandboxes that run stay as they are.
func (t *Templates) Promote(ctx context.Context, template, to, tag string) (*TemplateVersion, error) {
	in := map[string]string{"to": to}
	if tag != "" {
		in["tag"] = tag
	}
	return t.oneVersion(ctx, http.MethodPost, template, "/promote", in)
}

// Rollback lets the tag "default" lead to an earlier version: the one before, or
// the one that is named as in [Templates.Facts].
func (t *Templates) Rollback(ctx context.Context, template, to string) (*TemplateVersion, error) {
	in := map[string]string{}
	if to != "" {
		in["to"] = to
	}
	return t.oneVersion(ctx, http.MethodPost, template, "/rollback", in)
}

// Deprecate says why nobody should start a version any more, which is named as in
// [Templates.Facts]. An empty reason takes that back.
func (t *Templates) Deprecate(ctx context.Context, template, version, reason string) (*TemplateVersion, error) {
	if version == "" {
		return nil, noVersion(version)
	}
	rest := "/versions/" + url.PathEscape(version) + "/deprecation"
	if reason == "" {
		return t.oneVersion(ctx, http.MethodDelete, template, rest, nil)
	}
	return t.oneVersion(ctx, http.MethodPut, template, rest, map[string]string{"reason": reason})
}

// oneVersion makes a call that is answered with a version.
func (t *Templates) oneVersion(ctx context.Context, method, template, rest string, in any) (*TemplateVersion, error) {
	path, err := templatePath(template, rest)
	if err != nil {
		return nil, err
	}
	var out versionWire
	if err := t.c.call(ctx, method, path, nil, in, &out); err != nil {
		return nil, err
	}
	return out.version(), nil
}

// Tags returns the tags of a template, by name.
func (t *Templates) Tags(ctx context.Context, template string) ([]soulbox.Tag, error) {
	path, err := templatePath(template, "/tags")
	if err != nil {
		return nil, err
	}
	var out struct {
		Tags []tagWire `json:"tags"`
	}
	if err := t.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	return tagsOf(out.Tags), nil
}

// RemoveTag removes a tag of a template. What it led to stays.
func (t *Templates) RemoveTag(ctx context.Context, template, tag string) error {
	if tag == "" {
		return soulbox.Errorf(soulbox.Invalid, "a tag is needed")
	}
	path, err := templatePath(template, "/tags/"+url.PathEscape(tag))
	if err != nil {
		return err
	}
	err = t.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
	return err
}

// versionPath is the path of what belongs to a version.
func versionPath(template, version, rest string) (string, error) {
	if version == "" {
		return "", noVersion(version)
	}
	return templatePath(template, "/versions/"+url.PathEscape(version)+rest)
}

func noVersion(s string) error {
	return soulbox.Errorf(soulbox.Invalid, "%q is not a version, a tag or the id of a build", s)
}

type versionWire struct {
	Version    string    `json:"version"`
	Build      string    `json:"build"`
	CreatedAt  time.Time `json:"created_at"`
	Tags       []string  `json:"tags"`
	Deprecated string    `json:"deprecated"`
	Base       string    `json:"base"`
	Bytes      int64     `json:"bytes"`
	CPUs       int       `json:"cpus"`
	MemoryMiB  int64     `json:"memory_mib"`
	DiskMiB    int64     `json:"disk_mib"`
	Isolation  string    `json:"isolation"`
	Started    bool      `json:"started"`
}

func (w versionWire) version() *TemplateVersion {
	return &TemplateVersion{
		Version: versionOf(w.Version), Build: w.Build, CreatedAt: w.CreatedAt, Tags: w.Tags, Deprecated: w.Deprecated, Base: w.Base,
		Bytes: soulbox.Bytes(w.Bytes), CPUs: w.CPUs, Memory: soulbox.Bytes(w.MemoryMiB) * soulbox.MiB, Disk: soulbox.Bytes(w.DiskMiB) * soulbox.MiB,
		Isolation: isolation(w.Isolation), Started: w.Started,
	}
}

type factsWire struct {
	Template     soulbox.TemplateID `json:"template"`
	Build        soulbox.BuildID    `json:"build"`
	Version      string             `json:"version"`
	Image        string             `json:"image"`
	Base         string             `json:"base"`
	Distribution string             `json:"distribution"`
	Packages     []struct {
		Manager string `json:"manager"`
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"packages"`
	Env        map[string]string `json:"env"`
	Ports      []string          `json:"ports"`
	Volumes    []string          `json:"volumes"`
	Entrypoint []string          `json:"entrypoint"`
	Command    []string          `json:"command"`
	Labels     map[string]string `json:"labels"`
	Author     string            `json:"author"`
	User       string            `json:"user"`
	Workdir    string            `json:"workdir"`
	CPUs       int               `json:"cpus"`
	MemoryMiB  int64             `json:"memory_mib"`
	DiskMiB    int64             `json:"disk_mib"`
	Isolation  string            `json:"isolation"`
	Bytes      int64             `json:"bytes"`
	Layers     int               `json:"layers"`
	Snapshot   int64             `json:"snapshot_bytes"`
}

func (w factsWire) build() *soulbox.Build {
	b := &soulbox.Build{
		ID: w.Build, Template: w.Template, State: soulbox.BuildReady, Version: versionOf(w.Version), Image: w.Image,
		Size:      soulbox.Size{CPUs: w.CPUs, Memory: soulbox.Bytes(w.MemoryMiB) * soulbox.MiB, Disk: soulbox.Bytes(w.DiskMiB) * soulbox.MiB},
		Isolation: isolation(w.Isolation), Env: w.Env, User: w.User, Workdir: w.Workdir,
		Facts: soulbox.BuildFacts{
			Base: w.Base, Distribution: w.Distribution, Ports: w.Ports, Volumes: w.Volumes, Entrypoint: w.Entrypoint, Command: w.Command,
			Labels: w.Labels, Author: w.Author, Bytes: soulbox.Bytes(w.Bytes), Layers: w.Layers, Written: soulbox.Bytes(w.Snapshot),
		},
	}
	for _, p := range w.Packages {
		b.Facts.Packages = append(b.Facts.Packages, soulbox.Package(p))
	}
	return b
}

type diffWire struct {
	Before   edgeWire     `json:"before"`
	After    edgeWire     `json:"after"`
	Bump     soulbox.Bump `json:"bump"`
	Recipe   string       `json:"recipe"`
	Packages []struct {
		Kind    soulbox.ChangeKind `json:"kind"`
		Manager string             `json:"manager"`
		Name    string             `json:"name"`
		Before  string             `json:"before"`
		After   string             `json:"after"`
	} `json:"packages"`
	Env    []valueWire `json:"env"`
	Ports  []valueWire `json:"ports"`
	Values []valueWire `json:"values"`
}

type edgeWire struct {
	Version string          `json:"version"`
	Build   soulbox.BuildID `json:"build"`
}

func (w edgeWire) build() *soulbox.Build {
	return &soulbox.Build{ID: w.Build, Version: versionOf(w.Version)}
}

// valueWire has the fields of [soulbox.ValueChange].
type valueWire struct {
	Kind   soulbox.ChangeKind `json:"kind"`
	Name   string             `json:"name"`
	Before string             `json:"before"`
	After  string             `json:"after"`
}

func (w diffWire) diff() *soulbox.BuildDiff {
	d := &soulbox.BuildDiff{Before: w.Before.build(), After: w.After.build(), Bump: w.Bump, Recipe: w.Recipe}
	for _, p := range w.Packages {
		d.Packages = append(d.Packages, soulbox.PackageChange(p))
	}
	for to, list := range map[*[]soulbox.ValueChange][]valueWire{&d.Env: w.Env, &d.Ports: w.Ports, &d.Values: w.Values} {
		for _, v := range list {
			*to = append(*to, soulbox.ValueChange(v))
		}
	}
	return d
}
