package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// A Dataset says where a data frame comes from: from Path, URL, Content, S3, or
// Sandbox and File, of which one is set.
type Dataset struct {
	Name   string `json:"name,omitempty"`   // the variable that it becomes
	Format string `json:"format,omitempty"` // csv, parquet, json, jsonl or excel; empty: as it looks

	Path    string    `json:"path,omitempty"`    // in the sandbox
	URL     string    `json:"url,omitempty"`     // downloaded by the sandbox, within its rules
	Content []byte    `json:"content,omitempty"` // at most 8 MiB
	Sandbox string    `json:"sandbox,omitempty"` // another one, which has
	File    string    `json:"file,omitempty"`    // this
	S3      *S3Object `json:"s3,omitempty"`      // downloaded by the sandbox, within its rules

	// Options are of the function of pandas that reads it, such as sep.
	Options map[string]any `json:"options,omitempty"`
}

// An S3Object is in a bucket of Amazon's S3, or of what speaks its protocol. The
// server signs a URL of it, which the sandbox gets instead of the secret.
type S3Object struct {
	Bucket          string `json:"bucket"`
	Key             string `json:"key"`
	Region          string `json:"region"`
	Endpoint        string `json:"endpoint,omitempty"` // empty: Amazon's
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	SessionToken    string `json:"session_token,omitempty"`
}

// AnalyzeOptions say what is analyzed.
type AnalyzeOptions struct {
	Code      string    // Python
	Datasets  []Dataset // each is a data frame with its name
	ContextID string    // with whose variables it runs; empty: a context of its own
	Timeout   time.Duration
}

// An Analysis is what came of code and data.
type Analysis struct {
	Data           []Table         `json:"data"`
	Result         json.RawMessage `json:"result"` // of the last expression, by media type; nil: none
	Visualizations []Visualization `json:"visualizations"`
	Metrics        Metrics         `json:"metrics"`
	Logs           struct {
		Stdout string `json:"stdout"`
		Stderr string `json:"stderr"`
	} `json:"logs"`
	Error *ExecutionError `json:"error"` // nil: the code went well
}

// A Table describes a data frame.
type Table struct {
	Name    string            `json:"name"`
	Columns []json.RawMessage `json:"columns"`
	Types   json.RawMessage   `json:"dtypes"`
	Rows    int64             `json:"rows"`
	Preview json.RawMessage   `json:"preview"`
}

// A Visualization is a picture.
type Visualization struct {
	PNG   []byte          `json:"png"`
	SVG   string          `json:"svg"`
	Chart json.RawMessage `json:"chart"` // as data; nil: it is not known as such
	Title string          `json:"title"`
	Code  string          `json:"code"` // of what [Sandboxes.Visualize] drew: Python that draws it
	Rows  int64           `json:"rows"` // as Code
}

// Metrics are what an analysis took.
type Metrics struct {
	Seconds     float64 `json:"seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"`
	PeakMemory  int64   `json:"peak_memory_bytes"`
	Rows        int64   `json:"rows"`
	LoadSeconds float64 `json:"load_seconds"`
}

// An ExecutionError is what Python raised.
type ExecutionError struct {
	Name      string          `json:"name"`
	Value     string          `json:"value"`
	Traceback json.RawMessage `json:"traceback"`
}

// Error says what was raised.
func (e *ExecutionError) Error() string { return e.Name + ": " + e.Value }

// usualAnalysis is how long an analysis may take that does not say.
const usualAnalysis = 10 * time.Minute

// Analyze runs code on data in a sandbox with a code interpreter. That the code
// fails is no error, but told in the analysis.
func (s *Sandboxes) Analyze(ctx context.Context, id string, o AnalyzeOptions) (*Analysis, error) {
	in := map[string]any{"code": o.Code, "datasets": append([]Dataset{}, o.Datasets...)}
	if o.ContextID != "" {
		in["context_id"] = o.ContextID
	}
	var out Analysis
	if err := s.withData(ctx, id, "/analyze", in, o.Timeout, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// VisualizeOptions say what is drawn.
type VisualizeOptions struct {
	Kind    string           // line, bar, scatter, histogram, box, heatmap, pie or pair
	Dataset *Dataset         // nil: Columns
	Columns map[string][]any // the data itself
	Options map[string]any   // x, y, hue, title, bins, width, height, …
	Timeout time.Duration
}

// Visualize draws data in a sandbox with a code interpreter.
func (s *Sandboxes) Visualize(ctx context.Context, id string, o VisualizeOptions) (*Visualization, error) {
	in := map[string]any{"kind": o.Kind}
	if o.Dataset != nil {
		in["dataset"] = o.Dataset
	} else {
		in["data"] = map[string]any{"columns": o.Columns}
	}
	if o.Options != nil {
		in["options"] = o.Options
	}
	var out Visualization
	if err := s.withData(ctx, id, "/visualize", in, o.Timeout, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

func (s *Sandboxes) withData(ctx context.Context, id, rest string, in map[string]any, timeout time.Duration, out any) error {
	path, err := sandboxPath("/v1/sandboxes/", id, rest)
	if err != nil {
		return err
	}
	if timeout > 0 {
		in["timeout_seconds"] = timeout.Seconds()
	} else {
		timeout = usualAnalysis
	}
	// The server brings the data, which may take as long again.
	ctx, cancel := context.WithTimeout(ctx, timeout+2*workTimeout)
	defer cancel()
	_, err = s.c.exchange(ctx, http.MethodPost, path, nil, in, out)
	return err
}
