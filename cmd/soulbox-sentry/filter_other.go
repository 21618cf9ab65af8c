//go:build !amd64

package main

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// compiled is not there: the sentry compiles for itself.
var compiled precompiledseccomp.Program
