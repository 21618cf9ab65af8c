package templates

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestHouse(t *testing.T) {
	all, err := House()
	if err != nil {
		t.Fatalf("House: %v", err)
	}
	var names []string
	for _, h := range all {
		names = append(names, h.Name)
		if ref, err := soulbox.ParseTemplateRef(h.Name); err != nil || ref != (soulbox.TemplateRef{Name: h.Name}) {
			t.Errorf("%s is no plain name: %+v, %v", h.Name, ref, err)
		}
		if !strings.HasPrefix(h.Recipe.Dockerfile, "FROM base\n") || !strings.Contains(h.Recipe.Dockerfile, "--no-install-recommends") || !strings.Contains(h.Recipe.Dockerfile, "rm -rf /var/lib/apt/lists/*") {
			t.Errorf("%s is not built on base, or is not lean:\n%s", h.Name, h.Recipe.Dockerfile)
		}
		if (h.Recipe.Start == "") != (h.Recipe.Ready == "") {
			t.Errorf("%s starts %q and is ready by %q", h.Name, h.Recipe.Start, h.Recipe.Ready)
		}
		l := h.Listing
		if *l.Description == "" || *l.Licence == "" || len(*l.Categories) == 0 || len(*l.Keywords) == 0 || !strings.HasPrefix(*l.Readme, "# "+h.Name+"\n") {
			t.Errorf("%s does not say what it is: %q, %q, %q, %q, %q", h.Name, *l.Description, *l.Licence, *l.Categories, *l.Keywords, *l.Readme)
		}
	}
	if diff := cmp.Diff([]string{"code-interpreter-v1", "data-science", "go", "httpbin", "machine-learning", "node", "python", "tensorflow"}, names); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct{ ask, want []string }{
		{nil, nil},
		{[]string{"python", "go"}, []string{"python", "go"}},
		{[]string{"node", "node", "go", "node"}, []string{"node", "go"}},
	} {
		got, err := Choose(tt.ask)
		var names []string
		for _, h := range got {
			names = append(names, h.Name)
		}
		if diff := cmp.Diff(tt.want, names); err != nil || diff != "" {
			t.Errorf("Choose(%q): %v (-want +got):\n%s", tt.ask, err, diff)
		}
	}
	for _, name := range []string{"", "base", "Python", "python@1", "../base", ".", strings.Repeat("x", 1000)} {
		got, err := Choose([]string{"go", name})
		if got != nil || soulbox.KindOf(err) != soulbox.Invalid || len(err.Error()) > 200 || !strings.Contains(err.Error(), "none of the templates code-interpreter-v1, data-science, go, httpbin, machine-learning, node, python, tensorflow") {
			t.Errorf("Choose(go, %.20q) = %v, %v; want Invalid and which there are", name, got, err)
		}
	}
}

func TestRead(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	all := fstest.MapFS{
		"it/Dockerfile": file("FROM base\n"), "it/README.md": file("# it\n"),
		"it/template.yaml": file("description: what it is\ncategories: [a, b]\nkeywords: [c]\nlicence: MIT\nstart: serve\nready: ask\n"),
	}
	got, err := read(all, "it")
	want := soulbox.HouseTemplate{
		Name: "it", Recipe: soulbox.Recipe{Dockerfile: "FROM base\n", Start: "serve", Ready: "ask"},
		Listing: soulbox.ListingChange{
			Description: new("what it is"), Readme: new("# it\n"), Licence: new("MIT"), Categories: &[]string{"a", "b"}, Keywords: &[]string{"c"},
		},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("read: %v (-want +got):\n%s", err, diff)
	}
	for name, text := range map[string]string{"unknown": "colour: x\n", "empty": "", "no YAML": "{", "a list": "- a\n", "no text": "start: [a]\n"} {
		folder := fstest.MapFS{"it/Dockerfile": all["it/Dockerfile"], "it/README.md": all["it/README.md"], "it/template.yaml": file(text)}
		if got, err := read(folder, "it"); err == nil {
			t.Errorf("read with a template.yaml that has or is %s = %+v", name, got)
		}
	}
	for name := range all {
		folder := fstest.MapFS{}
		for other, f := range all {
			if other != name {
				folder[other] = f
			}
		}
		if got, err := read(folder, "it"); err == nil {
			t.Errorf("read without %s = %+v", name, got)
		}
	}
}

func TestWhole(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	all := fstest.MapFS{
		"one/Dockerfile": file("FROM base\nCOPY a.txt /a\n"), "one/a.txt": file("1\n"),
		"two/Dockerfile": file("FROM one\nCOPY a.txt /a\nUSER x\n"), "two/a.txt": file("2\n"),
		"three/Dockerfile": file("FROM two\n"),
		"lost/Dockerfile":  file("FROM nowhere\n"),
		"none/Dockerfile":  file("RUN true\n"),
	}
	const two = "FROM base\nCOPY <<'END-OF-FILE' /a\n1\nEND-OF-FILE\nCOPY <<'END-OF-FILE' /a\n2\nEND-OF-FILE\nUSER x\n"
	for name, want := range map[string]string{"two": two, "three": two, "none": "RUN true\n"} {
		if got, err := whole(all, name); err != nil || got != want {
			t.Errorf("whole of %s: %v, %q, want %q", name, err, got, want)
		}
	}
	if got, err := whole(all, "lost"); err == nil {
		t.Errorf("whole of one on what is not there = %q", got)
	}
}

func TestInline(t *testing.T) {
	folder := fstest.MapFS{
		"words.txt": {Data: []byte("one $two\n'three'\\\n")}, "open.txt": {Data: []byte("no end")}, "empty.txt": {Data: nil},
		"ends.txt": {Data: []byte("one\nEND-OF-FILE\ntwo\n")},
	}
	for _, tt := range []struct{ dockerfile, want string }{
		{"FROM base\n", "FROM base\n"},
		{"FROM base\nCOPY words.txt /a/b\nRUN true", "FROM base\nCOPY <<'END-OF-FILE' /a/b\none $two\n'three'\\\nEND-OF-FILE\nRUN true"},
		{"COPY --from=x words.txt /a\n", "COPY --from=x words.txt /a\n"},
		{"COPY missing.txt /a\n", ""},
		{"COPY open.txt /a\n", ""},
		{"COPY empty.txt /a\n", ""},
		{"COPY ends.txt /a\n", ""},
	} {
		got, err := inline(folder, tt.dockerfile)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != (tt.want != "") {
			t.Errorf("inline(%q): %v (-want +got):\n%s", tt.dockerfile, err, diff)
		}
	}
}
