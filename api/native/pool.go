package native

import (
	"net/http"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// listPools tells of the templates that the team may use; that another team has
// one, and how much it is used, is nobody else's business.
func (n *room) listPools(w http.ResponseWriter, _ *http.Request, who soulbox.Actor) error {
	out := poolList{Pools: []poolAnswer{}}
	if n.pools == nil {
		return api.Answer(w, http.StatusOK, out)
	}
	all := n.pools.Pools()
	out.BudgetMiB, out.EachMiB = int64(all.Budget/soulbox.MiB), int64(all.Each/soulbox.MiB)
	for _, p := range all.Pools {
		if p.Team == "" || p.Public || p.Team == who.Team {
			out.Pools = append(out.Pools, poolAnswer{
				Template: string(p.Template), Name: p.Name, EachMiB: int64(p.Each / soulbox.MiB), Ready: p.Ready, Wanted: p.Want, Hits: p.Hits, Misses: p.Misses,
			})
		}
	}
	return api.Answer(w, http.StatusOK, out)
}

type poolList struct {
	Pools     []poolAnswer `json:"pools"`
	BudgetMiB int64        `json:"budget_mib"`
	EachMiB   int64        `json:"each_mib"`
}

type poolAnswer struct {
	Template string `json:"template"`
	Name     string `json:"name"`
	EachMiB  int64  `json:"each_mib"`
	Ready    int    `json:"ready"`
	Wanted   int    `json:"wanted"`
	Hits     int64  `json:"hits"`
	Misses   int64  `json:"misses"`
}
