package soulbox

// A Pool tells of the sandboxes of one template that were made ahead and wait
// for somebody to create one.
type Pool struct {
	Template TemplateID
	Name     string // of the template
	Team     TeamID // whose template it is; empty: the house's
	Public   bool   // every team may use the template

	Each   Bytes // what one of them is taken to cost; 0: nobody knows yet
	Ready  int   // wait now
	Want   int   // should wait, after what was asked for lately and the budget
	Hits   int64 // creates that found one, since the server started
	Misses int64 // creates that found none
}

// Pools are those of a server, and the memory that they may take together.
type Pools struct {
	Pools  []Pool
	Budget Bytes // 0: nothing is made ahead
	Each   Bytes // what one waiting sandbox is taken to cost that has booted
}
