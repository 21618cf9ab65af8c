// Package python carries soulbox_display, the Python package that makes the
// Python kernel of the code interpreter show what E2B's clients know beside
// what Jupyter shows: tables as data, matplotlib's figures as charts.
//
// The package's own docstring describes its MIME types and limits. It needs
// nothing but Python's standard library and IPython, so it can be put on the
// path of any kernel: PYTHONPATH=DIR, and the extension soulbox_display.
package python

import "embed"

// FS holds the folder soulbox_display.
//
//go:embed soulbox_display/*.py
var FS embed.FS
