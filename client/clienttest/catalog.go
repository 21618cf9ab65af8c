package clienttest

import (
	"archive/tar"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

type template struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Public    bool      `json:"public"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memory_mib"`
	DiskMiB   int       `json:"disk_mib"`
	Isolation string    `json:"isolation"`
	Source    string    `json:"source"`
	Starts    int       `json:"starts"`
	Build     string    `json:"build,omitempty"`
	Version   string    `json:"version,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (s *Server) listTemplates(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []template{}
	for _, t := range s.templates {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b template) int { return strings.Compare(a.Name, b.Name) })
	if r.URL.RawQuery != "" {
		s.search(w, r, all)
		return
	}
	answer(w, http.StatusOK, map[string]any{"templates": all})
}

// listPools tells of one pool, whose sandboxes nobody gets.
func (s *Server) listPools(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"pools":      []any{map[string]any{"template": "tbase", "name": "base", "each_mib": 12, "ready": 4, "wanted": 4, "hits": 20, "misses": 2}},
		"budget_mib": 512, "each_mib": 12,
	})
}

// importTemplate accepts every image, and every tar that it can read; it tells
// each name in it, with owner and mode, as progress.
func (s *Server) importTemplate(w http.ResponseWriter, r *http.Request) {
	name, source := r.URL.Query().Get("name"), r.URL.Query().Get("image")
	if _, err := soulbox.ParseTemplateRef(name); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	class := r.URL.Query().Get("isolation")
	if class != "" && !knownClass(w, class) {
		return
	}
	var lines []string
	if source == "" {
		source = "archive"
		archive := tar.NewReader(r.Body)
		for {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				answer(w, http.StatusOK, map[string]any{"error": map[string]any{"code": http.StatusBadRequest, "message": "the archive is not a tar: " + err.Error()}})
				return
			}
			lines = append(lines, fmt.Sprintf("%s %c %d:%d %o", h.Name, h.Typeflag, h.Uid, h.Gid, h.Mode))
		}
	} else {
		lines = append(lines, "pulling "+source)
	}
	enc := json.NewEncoder(w)
	for _, l := range lines {
		_ = enc.Encode(map[string]string{"progress": l}) // the client has gone if this fails
	}
	now := time.Now()
	t := template{ID: "t" + name, Name: name, CPUs: 2, MemoryMiB: 512, DiskMiB: 1024, Source: source, CreatedAt: now, UpdatedAt: now}
	s.mu.Lock()
	t.Isolation = cmp.Or(class, s.templates[name].Isolation, soulbox.GVisor.String())
	s.templates[name] = t
	s.mu.Unlock()
	_ = enc.Encode(map[string]any{"template": t}) // as above
}

// knownClass reports whether there is such an isolation, or answers that there is
// none.
func knownClass(w http.ResponseWriter, class string) bool {
	if _, err := soulbox.ParseIsolation(class); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}

func (s *Server) deleteTemplate(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.templates {
		if id := r.PathValue("id"); name == id || t.ID == id {
			delete(s.templates, name)
			delete(s.shelves, t.ID)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	refuse(w, http.StatusNotFound, "template '"+r.PathValue("id")+"' not found")
}

type key struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Key       string    `json:"key,omitempty"`
	Suffix    string    `json:"suffix"`
	CreatedAt time.Time `json:"created_at"`
}

func (s *Server) listKeys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"keys": append([]key{}, s.keys...)})
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name string `json:"name"`
	}
	if !decode(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{ID: fmt.Sprintf("key-%d", len(s.keys)+1), Name: in.Name, Suffix: "cafe", CreatedAt: time.Now()}
	s.keys = append(s.keys, k)
	k.Key = "e2b_" + strings.Repeat("0", 36) + "cafe"
	answer(w, http.StatusCreated, k)
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.keys)
	s.keys = slices.DeleteFunc(s.keys, func(k key) bool { return k.ID == r.PathValue("id") })
	if len(s.keys) == n {
		refuse(w, http.StatusNotFound, "key "+r.PathValue("id")+" does not exist")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
