// Package python carries three Python packages. soulbox_display makes the Python
// kernel of the code interpreter show what E2B's clients know beside what Jupyter
// shows: tables as data, matplotlib's figures as charts. soulbox_data loads
// datasets and draws them. JupyterLab's server runs with soulbox_jupyterlab.
//
// The packages' own docstrings describe what they do, and their limits.
// soulbox_display needs nothing but Python's standard library and IPython, so it
// can be put on the path of any kernel: PYTHONPATH=DIR, and the extension
// soulbox_display.
package python

import "embed"

// FS holds the folders soulbox_display, soulbox_data and soulbox_jupyterlab.
//
//go:embed soulbox_display/*.py soulbox_data/*.py soulbox_jupyterlab/*.py
var FS embed.FS
