package templates_test

import (
	"context"
	_ "embed"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

//go:embed testdata/science.py
var science string

// TestDataScience has the server build the template data-science and uses it as
// people would.
func TestDataScience(t *testing.T) {
	s := servertest.New(t)
	s.Network = network
	s.Settings = "templates: [data-science, machine-learning, tensorflow]\ndisk_mb: 1024\n"
	s.Start(t)
	url, key := s.Credentials(t)
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	size(t, s, c, "data-science", built(t, c, "data-science"))
	t.Run("libraries", func(t *testing.T) { testLibraries(t, c) })
	t.Run("jupyterlab", func(t *testing.T) { testJupyterLab(t, c, url, key) })
	t.Run("lab", func(t *testing.T) { testLab(t, s, c) })
	t.Run("travel", func(t *testing.T) { testTravel(t, s, c) })
	t.Run("troubles", func(t *testing.T) { troubles(t, c.Sandboxes, "data-science") })
	// The others have been built meanwhile.
	t.Run("learning", func(t *testing.T) { learns(t, s, c) })
	s.Stop(t)
	s.WantNothingLeft(t)
}

// testLibraries does one thing with each library.
func testLibraries(t *testing.T, c *client.Client) {
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "data-science", Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	began := time.Now()
	res, err := sb.Run(ctx, "python - <<'PYTHON'\n"+science+"PYTHON\n", client.RunOptions{})
	if err != nil {
		t.Fatalf("in a sandbox: %v\n%s%s", err, res.Stdout, res.Stderr)
	}
	t.Logf("all of it took %v", time.Since(began).Round(time.Millisecond))
	want := strings.Join([]string{
		"numpy: [3.0, -1.0, 2.0]",
		"pandas: {'a': 9900, 'b': 10000}",
		"scipy: 1.414214",
		"scikit-learn: [3.0, -1.0, True]",
		"matplotlib: PNG",
		"seaborn: ['x', 'y']",
		"plotly: ['a', 'b']",
		"polars: [('a', 9880), ('b', 9975)]",
		"pyarrow: [200, True]",
		"duckdb: [('a', 9900), ('b', 10000)]",
		"statsmodels: [2.0, 3.0, -1.0]",
		"openpyxl: (200, 5)",
		"ipython: ['42']",
		"jupyter: 42\n",
		"jupyterlab: 4",
		"",
	}, "\n")
	if diff := cmp.Diff(want, res.Stdout); diff != "" {
		t.Errorf("the libraries say (-want +got):\n%s\n%s", diff, res.Stderr)
	}
	if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}
