package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// measure counts and times requests by route and status.
type measure struct {
	seconds *prometheus.HistogramVec // nil: not measured
}

func newMeasure(reg prometheus.Registerer) (*measure, error) {
	if reg == nil {
		return &measure{}, nil
	}
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "soulbox_api_request_seconds",
		Help:    "Time from a request of the control plane to the end of its answer, by route and status.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"verb", "route", "status"})
	if err := reg.Register(h); err != nil {
		return nil, err
	}
	return &measure{seconds: h}, nil
}

// observe counts one request. The label is the route's pattern, not the path,
// so that there are no more series than rows in the table.
func (m *measure) observe(r Route, status int, took time.Duration) {
	if m.seconds == nil {
		return
	}
	m.seconds.WithLabelValues(r.Verb, r.Path, strconv.Itoa(status)).Observe(took.Seconds())
}
