package main

import "github.com/soulbox/soulbox/client"

// A twig is a checkpoint in a drawn tree.
type twig struct {
	*client.Snapshot
	branch string // what is drawn to the left of it
}

// asTree returns a list of checkpoints, the oldest first, in the order in which
// their tree is drawn. One that is the only child of its parent stands right
// below it, so that only branches need room. A parent that does not come before
// its child in the list is none.
func asTree(list []*client.Snapshot) []twig {
	t := &drawing{list: list, below: map[int][]int{}}
	at := map[string]int{}
	for i, s := range list {
		parent, ok := at[s.Parent]
		if !ok {
			parent = ground
		}
		t.below[parent] = append(t.below[parent], i)
		at[s.ID] = i
	}
	t.draw(ground, "")
	return t.twigs
}

// ground is the parent of what has none.
const ground = -1

type drawing struct {
	list  []*client.Snapshot
	below map[int][]int // by index, the children of each
	twigs []twig
}

func (t *drawing) draw(parent int, left string) {
	children := t.below[parent]
	for n, i := range children {
		fork, beside := "├─ ", "│  "
		switch {
		case len(children) == 1:
			fork, beside = "", ""
		case n == len(children)-1:
			fork, beside = "└─ ", "   "
		}
		t.twigs = append(t.twigs, twig{t.list[i], left + fork})
		t.draw(i, left+beside)
	}
}
