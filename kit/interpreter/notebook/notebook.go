// Package notebook reads, checks, changes and keeps Jupyter's notebooks: files
// of nbformat 4.5 below a folder that belongs to an unprivileged user.
//
// A Document is what is in one. Parse takes nothing that Jupyter's own check
// would refuse, gives the cells of documents of nbformat 4.0 to 4.4 the ids that
// they lack, and keeps whatever metadata there is. Outputs gathers what a kernel
// says about a cell, as Jupyter would store it.
//
// A Store has the files. What is in the folder was put there by anybody: names
// may be links and pipes, files may be of any size, and whoever writes here is
// root. So nothing outside of the folder is reached, whatever changes meanwhile,
// and all that is read is bounded.
//
// # Who else writes
//
// JupyterLab saves the same files. A file's revision is a hash of its bytes; a
// change that names another one is refused. A change that names none, as that of
// outputs after a run, is made to the newest file, and made again when somebody
// saves in between. Files are replaced at once and whole: whoever reads while
// somebody writes, or after a crash, has the old one or the new one.
package notebook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const (
	// MaxSize is of a notebook, as a file and as a request. A parsed one needs a
	// few times that, in a sandbox that has a kernel beside it.
	MaxSize = 32 << 20
	// MaxOutputs is what the outputs of a cell may have together.
	MaxOutputs = 16 << 20

	maxCells = 10_000
	maxCount = 10_000 // outputs of a cell; pages with more do not open
	maxDepth = 100    // of JSON; Python's parser ends at a thousand
	maxID    = 64     // of a cell, by nbformat
)

// Types of cells.
const (
	Code     = "code"
	Markdown = "markdown"
	Raw      = "raw"
)

// Document is a notebook. Its texts are whole, however the file has them.
type Document struct {
	Metadata json.RawMessage // an object
	Cells    []*Cell
}

// Cell is a part of a notebook.
type Cell struct {
	ID          string
	Type        string
	Source      string
	Metadata    json.RawMessage   // an object
	Attachments json.RawMessage   // an object, or nothing; never of code
	Outputs     []json.RawMessage // of code
	Count       *int64            // of code: its number in the kernel's history
}

// Kernel is what a notebook says about who runs it.
type Kernel struct {
	Name     string // of the kernel's spec; may be empty
	Display  string // what people call it
	Language string // may be empty
}

// Error is what whoever asked should know.
type Error struct {
	Status   int // HTTP's
	Message  string
	Revision string // the newest, when it is the reason
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

func errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *Error {
	return errorf(http.StatusBadRequest, format, args...)
}

// New returns a notebook without cells.
func New(k Kernel) *Document {
	info := languages[k.Language]
	if info == nil {
		info = map[string]any{}
	}
	meta := map[string]any{
		"kernelspec":    map[string]string{"name": k.Name, "display_name": k.Display, "language": k.Language},
		"language_info": info,
	}
	if _, ok := info["name"]; !ok {
		meta["language_info"] = map[string]string{"name": k.Language}
	}
	return &Document{Metadata: mustJSON(meta)}
}

// languages is what kernels say about theirs, as far as a reader needs it who has
// no kernel: how to colour cells, and what to call a script.
var languages = map[string]map[string]any{
	"python": {
		"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3",
		"codemirror_mode": map[string]any{"name": "ipython", "version": 3}, "nbconvert_exporter": "python",
	},
	"javascript": {"name": "javascript", "file_extension": ".js", "mimetype": "text/javascript", "pygments_lexer": "javascript"},
	"typescript": {"name": "typescript", "file_extension": ".ts", "mimetype": "text/x.typescript", "pygments_lexer": "typescript"},
	"R":          {"name": "R", "file_extension": ".r", "mimetype": "text/x-r-source", "pygments_lexer": "r", "codemirror_mode": "r"},
	"java":       {"name": "java", "file_extension": ".jshell", "mimetype": "text/x-java-source", "pygments_lexer": "java"},
	"bash":       {"name": "bash", "file_extension": ".sh", "mimetype": "text/x-sh", "pygments_lexer": "bash", "codemirror_mode": "shell"},
}

// Kernel returns what the notebook says about who runs it.
func (d *Document) Kernel() Kernel {
	var m struct {
		Spec struct {
			Name     string `json:"name"`
			Display  string `json:"display_name"`
			Language any    `json:"language"` // nobody checks it
		} `json:"kernelspec"`
		Info struct {
			Name string `json:"name"`
		} `json:"language_info"`
	}
	_ = json.Unmarshal(d.Metadata, &m) // it was checked
	k := Kernel{Name: m.Spec.Name, Display: m.Spec.Display, Language: m.Info.Name}
	if s, ok := m.Spec.Language.(string); ok && k.Language == "" {
		k.Language = s
	}
	return k
}

// contexts maps kernels to what clients call their languages.
var contexts = map[string]string{"python3": "python", "ir": "r"}

// Context returns the language of a context in which the notebook's cells run.
func (k Kernel) Context() string {
	switch {
	case contexts[k.Name] != "":
		return contexts[k.Name]
	case k.Name != "":
		return strings.ToLower(k.Name)
	case k.Language != "":
		return strings.ToLower(k.Language)
	}
	return "python"
}

// Find returns the cell with this id and where it is; nil when there is none.
func (d *Document) Find(id string) (*Cell, int) {
	i := slices.IndexFunc(d.Cells, func(c *Cell) bool { return c.ID == id })
	if i < 0 {
		return nil, -1
	}
	return d.Cells[i], i
}

// mustJSON writes what has a form in JSON, as all that is passed to it has.
func mustJSON(v any) json.RawMessage {
	b, err := encode(v, "")
	if err != nil {
		panic(err)
	}
	return b
}
