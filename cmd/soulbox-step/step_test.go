package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParse(t *testing.T) {
	tests := []struct {
		args string
		want call
		bad  bool
	}{
		{"--log /x/runc-log.json --log-format json run --bundle /b --keep id", call{verb: "run", bundle: "/b", id: "id"}, false},
		{"--log=/x run --bundle=/b id", call{verb: "run", bundle: "/b", id: "id"}, false},
		{"--log /x --log-format json kill id 9", call{verb: "kill", id: "id", rest: []string{"9"}}, false},
		{"--log /x --log-format json delete id", call{verb: "delete", id: "id"}, false},
		{"delete --force id", call{verb: "delete", id: "id"}, false},
		{"hold", call{verb: "hold"}, false},
		{"become /programs/buildkitd --config x", call{verb: "become", rest: []string{"/programs/buildkitd", "--config", "x"}}, false},
		{"", call{}, false},
		{"run", call{}, true},
		{"run --bundle", call{}, true},
		{"kill", call{}, true},
		{"--root / run id", call{}, true},
		{"run --detach id", call{}, true},
	}
	for _, tt := range tests {
		got, err := parse(strings.Fields(tt.args))
		if (err != nil) != tt.bad {
			t.Errorf("parse(%q): %v", tt.args, err)
			continue
		}
		if len(got.rest) == 0 {
			got.rest = nil
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(call{})); diff != "" {
			t.Errorf("parse(%q): (-want +got)\n%s", tt.args, diff)
		}
	}
}

// FuzzParse: a call that is accepted has what its verb needs.
func FuzzParse(f *testing.F) {
	f.Add("--log\x00/x\x00run\x00--bundle\x00/b\x00id")
	f.Add("become\x00-x")
	f.Fuzz(func(t *testing.T, args string) {
		c, err := parse(strings.Split(args, "\x00"))
		if err == nil && slices.Contains([]string{"run", "kill", "delete"}, c.verb) && c.id == "" {
			t.Errorf("parse(%q) has no id", args)
		}
	})
}

const mountinfo = `1 0 0:1 / / rw - tmpfs tmpfs rw
2 1 0:2 / /build/cache/b1/rootfs rw,relatime - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/build/cache/s/7/fs,workdir=/build/cache/s/7/work
3 1 8:1 /x /build/cache/b2/rootfs rw - ext4 /dev/vda rw
4 1 8:1 /x /over rw - ext4 /dev/vda rw
5 4 0:3 / /over rw - overlay overlay rw,upperdir=/later
`

func TestUpperOf(t *testing.T) {
	for dir, want := range map[string]string{
		"/build/cache/b1/rootfs": "/build/cache/s/7/fs", "/build/cache/b2/rootfs": "/build/cache/b2/rootfs", "/nothing": "/nothing", "/over": "/later",
	} {
		if got := upperOf(mountinfo, dir); got != want {
			t.Errorf("upperOf(%q) = %q, want %q", dir, got, want)
		}
	}
}

func FuzzUpperOf(f *testing.F) {
	f.Add(mountinfo, "/over")
	f.Fuzz(func(t *testing.T, text, dir string) {
		if got := upperOf(text, dir); got != dir && !strings.Contains(text, "upperdir="+got) {
			t.Errorf("upperOf(%q, %q) = %q", text, dir, got)
		}
	})
}

// What the step sees is the server's network, and nothing of ours.
func TestMove(t *testing.T) {
	dir := t.TempDir()
	spec := specs.Spec{
		Root: &specs.Root{Path: "/x"},
		Process: &specs.Process{Args: []string{"sh"}, Env: []string{
			"A=1", "FTP_PROXY=soulbox-build:secret", "ftp_proxy=soulbox-build:secret", "OTEL_TRACES_EXPORTER=otlp",
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix:///dev/otel-grpc.sock", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc", "TRACEPARENT=00", "OTEL_SERVICE_NAME=mine", "FTP_PROXYX=1",
		}},
		Linux:       &specs.Linux{CgroupsPath: "/team", Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}}},
		Mounts:      []specs.Mount{{Destination: "/etc/resolv.conf", Type: "bind", Source: "/a"}, {Destination: "/dev/otel-grpc.sock", Type: "bind", Source: "/b"}},
		Annotations: map[string]string{"dev.gvisor.x": "y"},
	}
	b, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, specFile), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStep(dir)
	if err != nil {
		t.Fatal(err)
	}
	if req := s.request(); req.Build != "secret" || !req.Offline || len(req.Special) != 0 {
		t.Errorf("request is %+v", req)
	}
	if err := s.move("/netns", "10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	again, err := openStep(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(again.spec.Process.Env, " "); got != "A=1 OTEL_SERVICE_NAME=mine FTP_PROXYX=1" {
		t.Errorf("environment is %q", got)
	}
	want := []specs.LinuxNamespace{{Type: "pid"}, {Type: "network", Path: "/netns"}}
	if diff := cmp.Diff(want, again.spec.Linux.Namespaces); diff != "" || again.spec.Linux.CgroupsPath != "" || again.spec.Annotations != nil {
		t.Errorf("namespaces (-want +got)\n%s, cgroup %q, annotations %v", diff, again.spec.Linux.CgroupsPath, again.spec.Annotations)
	}
	var places []string
	for _, m := range again.spec.Mounts {
		places = append(places, m.Destination+" "+m.Type+" "+strings.TrimPrefix(m.Source, dir))
	}
	if got := strings.Join(places, ", "); got != "/etc/resolv.conf bind /resolv.conf, /tmp nothing nothing" {
		t.Errorf("mounts are %s", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "resolv.conf")); string(got) != "nameserver 10.0.0.1\n" || err != nil {
		t.Errorf("resolv.conf is %q, %v", got, err)
	}
}

func TestOpenStep(t *testing.T) {
	for _, bad := range []string{"", "{}", "null", `{"root":{},"process":{}}`, `{"root":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, specFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := openStep(dir); err == nil {
			t.Errorf("%q is a step: %+v", bad, s)
		}
	}
}
