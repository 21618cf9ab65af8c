package native_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/soulbox/soulbox/api/native"
)

type schema struct {
	Ref        string            `yaml:"$ref"`
	Type       string            `yaml:"type"`
	Required   []string          `yaml:"required"`
	Properties map[string]schema `yaml:"properties"`
	Items      *schema           `yaml:"items"`
	Additional *schema           `yaml:"additionalProperties"`
	Enum       []string          `yaml:"enum"`
}

type document struct {
	OpenAPI string `yaml:"openapi"`
	Paths   map[string]map[string]struct {
		OperationID string `yaml:"operationId"`
		Parameters  []struct {
			Ref  string `yaml:"$ref"`
			Name string `yaml:"name"`
			In   string `yaml:"in"`
		} `yaml:"parameters"`
		Responses map[string]any `yaml:"responses"`
	} `yaml:"paths"`
	Components struct {
		Parameters map[string]struct {
			Name string `yaml:"name"`
			In   string `yaml:"in"`
		} `yaml:"parameters"`
		Schemas map[string]schema `yaml:"schemas"`
	} `yaml:"components"`
}

func spec(t *testing.T) document {
	t.Helper()
	b, err := os.ReadFile("../../spec/native.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := yaml.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSpecRoutes holds the table and the description together, both ways.
func TestSpecRoutes(t *testing.T) {
	d := spec(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Errorf("openapi: %s, want 3.1", d.OpenAPI)
	}
	described := map[string]bool{}
	operations := map[string]bool{}
	for path, verbs := range d.Paths {
		for verb, op := range verbs {
			row := strings.ToUpper(verb) + " " + path
			described[row] = true
			if op.OperationID == "" || operations[op.OperationID] {
				t.Errorf("%s: operationId %q is missing or not unique", row, op.OperationID)
			}
			operations[op.OperationID] = true
			if len(op.Responses) < 2 || op.Responses["default"] == nil {
				t.Errorf("%s: needs a good answer and a default one", row)
			}
			var named []string
			for _, p := range op.Parameters {
				if p.Ref != "" {
					shared := d.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
					p.Name, p.In = shared.Name, shared.In
				}
				if p.In == "path" {
					named = append(named, "{"+p.Name+"}")
				}
			}
			for seg := range strings.SplitSeq(path, "/") {
				if strings.HasPrefix(seg, "{") && !slices.Contains(named, seg) {
					t.Errorf("%s: parameter %s is not described", row, seg)
				}
			}
		}
	}
	for _, r := range slices.Concat(native.Routes(nil, nil, native.Options{}), native.SessionRoutes(nil), native.LabRoutes(nil), native.TemplateRoutes(nil, nil)) {
		if !described[r.String()] {
			t.Errorf("%s is in the table and not in spec/native.yaml", r)
		}
		delete(described, r.String())
	}
	for row := range described {
		t.Errorf("%s is in spec/native.yaml and not in the table", row)
	}
}

// TestSpecAnswers checks the answers on file against the schemas.
func TestSpecAnswers(t *testing.T) {
	d := spec(t)
	for file, name := range map[string]string{
		"sandboxes": "SandboxList", "sandbox": "Sandbox", "sandbox-created": "Sandbox", "sandbox-ended": "Sandbox", "sandbox-paused": "Sandbox",
		"checkpoint": "Checkpoint", "checkpoints": "CheckpointList", "diff": "ChangeList", "diff-now": "ChangeList", "rolled-back": "Sandbox", "snapshots": "SnapshotList", "templates": "TemplateList",
		"keys": "KeyList", "key-created": "Key", "version": "Version", "pools": "PoolList",
		"session": "Session", "session-ended": "Session", "sessions": "SessionList", "session-beat": "Beat", "session-results": "MemberResults",
		"session-command": "StartedCommand", "session-state": "SessionState", "session-changes": "SessionState",
		"session-checkpoint": "SessionCheckpoint", "session-checkpoints": "SessionCheckpointList",
		"template": "Template", "template-listed": "Template", "template-forked": "Template", "templates-found": "TemplateList",
		"problems": "ProblemList", "build-started": "StartedBuild", "builds": "BuildList", "build": "Build", "build-steps": "Build", "build-failed": "Build", "build-failed-short": "Build", "build-log": "BuildLog",
		"template-versions": "TemplateVersionList", "template-version": "TemplateVersion", "template-deprecated": "TemplateVersion",
		"template-diff": "TemplateDiff", "template-tags": "TagList", "template-facts": "Facts", "categories": "CategoryList",
	} {
		b, err := os.ReadFile(filepath.Join("testdata", file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		for _, wrong := range d.check(schema{Ref: "#/components/schemas/" + name}, v, file) {
			t.Error(wrong)
		}
	}
	if wrong := d.check(schema{Ref: "#/components/schemas/Key"}, map[string]any{"id": 7.0, "secret": "x"}, "key"); len(wrong) < 4 {
		t.Errorf("a wrong key has only these faults: %q", wrong)
	}
}

// check returns what is wrong with v. It knows as much of JSON Schema as the
// description uses, and is stricter: a property that is not described is wrong.
func (d document) check(s schema, v any, at string) (wrong []string) {
	if s.Ref != "" {
		target, ok := d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		if !ok {
			return []string{at + ": no schema " + s.Ref}
		}
		return d.check(target, v, at)
	}
	if s.Type == "" { // any JSON
		return nil
	}
	is := ""
	switch v := v.(type) {
	case string:
		is = "string"
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
			wrong = append(wrong, fmt.Sprintf("%s: %q is none of %q", at, v, s.Enum))
		}
	case bool:
		is = "boolean"
	case float64:
		is = "integer"
		if v != float64(int64(v)) {
			is = "number"
		}
	case []any:
		is = "array"
		for i, e := range v {
			wrong = append(wrong, d.check(*s.Items, e, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case map[string]any:
		is = "object"
		for _, k := range s.Required {
			if _, ok := v[k]; !ok {
				wrong = append(wrong, at+": lacks "+k)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			p, ok := s.Properties[k]
			switch {
			case ok:
				wrong = append(wrong, d.check(p, v[k], at+"."+k)...)
			case s.Additional != nil:
				wrong = append(wrong, d.check(*s.Additional, v[k], at+"."+k)...)
			default:
				wrong = append(wrong, at+"."+k+": not described")
			}
		}
	}
	if is != s.Type && (is != "integer" || s.Type != "number") {
		wrong = append(wrong, fmt.Sprintf("%s: is %s, want %s", at, is, s.Type))
	}
	return wrong
}
