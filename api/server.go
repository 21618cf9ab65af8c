package api

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer returns a server for h with the limits that hold for whoever has
// not said anything sensible yet: slow or huge headers and idle connections.
// There is no limit on a whole request or answer, because streams pass here;
// h bounds those that are not.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       620 * time.Second, // longer than clients keep idle connections, so that they never use a dying one
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // TLS scanners and the like
	}
}
