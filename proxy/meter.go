package proxy

import "github.com/prometheus/client_golang/prometheus"

// meter counts what passes.
type meter struct {
	requests    *prometheus.CounterVec // class: agent, user
	errors      *prometheus.CounterVec // kind
	connections prometheus.Gauge
	streams     prometheus.Gauge
}

func newMeter(reg prometheus.Registerer) *meter {
	m := &meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "soulbox_proxy_requests_total",
			Help: "Requests for sandboxes, by the class of port: agent or user.",
		}, []string{"class"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "soulbox_proxy_errors_total",
			Help: "Requests for sandboxes that did not end well, by kind.",
		}, []string{"kind"}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "soulbox_proxy_connections",
			Help: "Connections open to sandboxes, idle ones included.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "soulbox_proxy_streams",
			Help: "Requests that are being carried.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.errors, m.connections, m.streams)
	}
	return m
}
