package client

import (
	"context"
	"net/http"

	"github.com/soulbox/soulbox"
)

// Pools tells of the sandboxes that the server has made ahead of the templates
// that the team may use, and what they may take of its memory.
func (s *Sandboxes) Pools(ctx context.Context) (*soulbox.Pools, error) {
	var out struct {
		Pools []struct {
			Template soulbox.TemplateID `json:"template"`
			Name     string             `json:"name"`
			EachMiB  int64              `json:"each_mib"`
			Ready    int                `json:"ready"`
			Wanted   int                `json:"wanted"`
			Hits     int64              `json:"hits"`
			Misses   int64              `json:"misses"`
		} `json:"pools"`
		BudgetMiB int64 `json:"budget_mib"`
		EachMiB   int64 `json:"each_mib"`
	}
	if err := s.c.call(ctx, http.MethodGet, "/v1/pools", nil, nil, &out); err != nil {
		return nil, err
	}
	all := &soulbox.Pools{Budget: soulbox.Bytes(out.BudgetMiB) * soulbox.MiB, Each: soulbox.Bytes(out.EachMiB) * soulbox.MiB}
	for _, w := range out.Pools {
		all.Pools = append(all.Pools, soulbox.Pool{
			Template: w.Template, Name: w.Name, Each: soulbox.Bytes(w.EachMiB) * soulbox.MiB, Ready: w.Ready, Want: w.Wanted, Hits: w.Hits, Misses: w.Misses,
		})
	}
	return all, nil
}
