package soulbox

import (
	"regexp"
	"strings"
	"time"
)

// A TemplateID names a template, independent of what people call it.
type TemplateID string

// A Template is what sandboxes are made of: a root file system and the
// defaults of what starts on it. These are those of one of its builds, the
// default one unless somebody asked for another; see [Template.At].
type Template struct {
	ID        TemplateID
	Team      TeamID     // empty for the house's own
	Name      string     // unique within its team
	Public    bool       // every team may start it
	Build     BuildID    // of which the following are; empty: none is ready
	Version   Version    // of that build
	Image     string     // SHA-256 of the EROFS file, in hex; empty: none is ready
	Snapshot  SnapshotID // of a sandbox in which its start command runs; empty: sandboxes boot
	Baked     SandboxID  // the sandbox of which that was taken
	Size      Size       // of a sandbox, unless it asks otherwise
	Env       map[string]string
	User      string    // programs run as this user unless they say otherwise
	Workdir   string    // empty: the user's home
	Source    string    // where the image came from, for people
	Isolation Isolation // of a sandbox, unless it asks otherwise
	Starts    int64     // how many sandboxes were made of it
	CreatedAt time.Time
	UpdatedAt time.Time
}

// At returns the template as b makes it, which is one of its builds.
func (t *Template) At(b *Build) *Template {
	c := *t
	c.Build, c.Version, c.Image, c.Snapshot, c.Baked = b.ID, b.Version, b.Image, b.Snapshot, b.Baked
	c.Size, c.Isolation, c.Env, c.User, c.Workdir, c.Source = b.Size, b.Isolation, b.Env, b.User, b.Workdir, b.Facts.Base
	return &c
}

// A TemplateRef is how a client asks for a template: [namespace/]name, then
// nothing, :tag or @version.
type TemplateRef struct {
	Namespace string
	Name      string       // a name or a template id
	Tag       string       // a tag or a build id; empty stands for [DefaultTag] unless there are Versions
	Versions  VersionRange // the newest of these
}

// The alphabets are E2B's, so that every name that works there works here.
var (
	templateName = regexp.MustCompile(`^[a-z0-9_-]{1,128}$`)
	templateTag  = regexp.MustCompile(`^[a-z0-9_.-]{1,128}$`)
)

// ParseTemplateRef reads a reference as clients write it. Letters are lowered.
func ParseTemplateRef(s string) (TemplateRef, error) {
	var ref TemplateRef
	rest := strings.ToLower(s)
	if ns, name, ok := strings.Cut(rest, "/"); ok {
		if !templateName.MatchString(ns) {
			return TemplateRef{}, Errorf(Invalid, "template %.200q: the namespace may hold a-z, 0-9, - and _", s)
		}
		ref.Namespace, rest = ns, name
	}
	if name, versions, ok := strings.Cut(rest, "@"); ok {
		var err error
		if ref.Versions, err = ParseVersionRange(versions); err != nil {
			return TemplateRef{}, Errorf(Invalid, "template %.200q: %w", s, err)
		}
		rest = name
	} else if name, tag, ok := strings.Cut(rest, ":"); ok {
		if !templateTag.MatchString(tag) {
			return TemplateRef{}, Errorf(Invalid, "template %.200q: the tag may hold a-z, 0-9, -, _ and .", s)
		}
		ref.Tag, rest = tag, name
	}
	if !templateName.MatchString(rest) {
		return TemplateRef{}, Errorf(Invalid, "template %.200q: a name has 1 to 128 of a-z, 0-9, - and _", s)
	}
	ref.Name = rest
	return ref, nil
}

// String returns the reference as a client would write it.
func (r TemplateRef) String() string {
	s := r.Name
	if r.Namespace != "" {
		s = r.Namespace + "/" + s
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if v := r.Versions.String(); v != "" {
		s += "@" + v
	}
	return s
}

// ParseTag reads a tag that somebody wants to give to a build. Letters are
// lowered. What could name a build is none: whoever writes it in a reference
// means that build.
func ParseTag(s string) (string, error) {
	tag := strings.ToLower(s)
	switch {
	case !templateTag.MatchString(tag):
		return "", Errorf(Invalid, "tag %.200q: a tag has 1 to 128 of a-z, 0-9, -, _ and .", s)
	case BuildID(tag).Valid():
		return "", Errorf(Invalid, "tag %q could be the id of a build; choose another one", s)
	}
	return tag, nil
}

// NoBuild is the error for whoever asks for a build that a template does not
// have, or that is not ready.
func (r TemplateRef) NoBuild() error {
	named := TemplateRef{Namespace: r.Namespace, Name: r.Name}
	switch {
	case r.Tag != "" && r.Tag != DefaultTag:
		return Errorf(NotFound, "tag '%s' does not exist for template '%s'", r.Tag, named)
	case r.Versions != VersionRange{}:
		return Errorf(NotFound, "template '%s' has no version %s", named, r.Versions)
	default:
		return Errorf(NotFound, "template '%s' has no build that is ready; build it, or name a tag that one has", named)
	}
}
