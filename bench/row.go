package bench

import (
	"math"
	"slices"
	"time"
)

// A Row is one figure with all of its samples. Take samples with Took or Add,
// then call Summarize. Not safe for concurrent use.
type Row struct {
	Name    string  `json:"name"`
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	N       int     `json:"n"`
	WarmUp  int     `json:"warm_up"` // samples before these that do not count
	P50     float64 `json:"p50"`
	P95     float64 `json:"p95"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
	Failed  int     `json:"failed"`          // tries that gave no sample
	Note    string  `json:"note,omitempty"`  // what is special in this run, such as why there is no figure
	Error   string  `json:"error,omitempty"` // why it could not be measured
	samples []float64
}

// Took adds a sample in milliseconds.
func (r *Row) Took(d time.Duration) { r.Add(float64(d.Microseconds()) / 1000) }

// Add adds samples.
func (r *Row) Add(samples ...float64) { r.samples = append(r.samples, samples...) }

// Summarize computes what is computed from the samples. A percentile p is what
// p of a hundred samples were at least as good as, so it counts from below for
// times and from above for what is better the more it is. Max is the largest.
func (r *Row) Summarize() {
	s := slices.Sorted(slices.Values(r.samples))
	if r.N = len(s); r.N == 0 {
		return
	}
	r.Max = s[len(s)-1]
	if rates[r.Unit] {
		slices.Reverse(s)
	}
	r.P50, r.P95, r.P99 = quantile(s, 50), quantile(s, 95), quantile(s, 99)
}

// The units.
const (
	millis    = "ms"
	megabytes = "MB"
	perSecond = "per s"
	mbPerS    = "MB/s"
)

// rates are the units of which more is better.
var rates = map[string]bool{perSecond: true, mbPerS: true}

// quantile is the nearest-rank quantile of samples in order, of which there is
// at least one.
func quantile(ordered []float64, percent int) float64 {
	rank := math.Ceil(float64(percent*len(ordered)) / 100)
	return ordered[max(0, int(rank)-1)]
}

// median is the middle one of samples in any order; 0 without any.
func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	return quantile(slices.Sorted(slices.Values(samples)), 50)
}
