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

var (
	//go:embed testdata/learning.py
	learning string
	//go:embed testdata/tensorflow.py
	tensorflow string
)

// learns has the server build the templates for machine learning, on what it has
// of data-science, and trains ten steps with each library in them.
func learns(t *testing.T, s *servertest.Server, c *client.Client) {
	for _, tt := range []struct {
		template, program string
		want              []string
	}{
		{"machine-learning", learning, []string{
			"torch: [3.0, -1.0, 2.0, False]",
			"torch computes: [True, True, 81.0, True]",
			"torch without a GPU: [True, True, True, True]",
			"torch loads data: [200, True]",
			"transformers: [8, 2, True, True]",
			"tokenizers: ['soul', 'sand', 'box']",
			"xgboost: [10, True]",
			"lightgbm: [10, True]",
			"",
		}},
		{"tensorflow", tensorflow, []string{
			"tensorflow: [3.0, -1.0, 2.0]",
			"keras: [10, True, True]",
			"tensorflow sees ['CPU']",
			"",
		}},
	} {
		t.Run(tt.template, func(t *testing.T) {
			size(t, s, c, tt.template, built(t, c, tt.template))
			sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: tt.template, Timeout: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			began := time.Now()
			res, err := sb.Run(ctx, "cat >program.py <<'PYTHON'\n"+tt.program+"PYTHON\npython program.py", client.RunOptions{})
			if err != nil {
				t.Fatalf("in a sandbox: %v\n%s%s", err, res.Stdout, res.Stderr)
			}
			t.Logf("all of it took %v", time.Since(began).Round(time.Millisecond))
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), res.Stdout); diff != "" {
				t.Errorf("the libraries say (-want +got):\n%s\n%s", diff, res.Stderr)
			}
			if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
				t.Error(err)
			}
		})
	}
}
