package soulbox

import "time"

// A Listing is what a template tells those who look for one.
type Listing struct {
	Template    *Template // what its default build makes of it
	Namespace   string    // the slug of its team; empty for the house's own
	Description string    // a line
	Readme      string    // Markdown
	Licence     string    // such as MIT, as SPDX names it
	Categories  []string
	Keywords    []string
	Retired     string // why nobody should start its default build any more; empty: it is fine

	Stars   float64 // what those who rated it gave, from 1 to 5 on average; 0: nobody did
	Ratings int     // how many did
	Mine    int     // what the reader's team gave; 0: nothing

	Downloads   int64      // how many sandboxes other teams made of it
	ForkOf      TemplateID // the template that it began as a copy of; may be gone, or empty
	PublishedAt time.Time  // zero: it is not public
}

// A ListingChange says what of a listing becomes different. Nil: nothing.
type ListingChange struct {
	Description, Readme, Licence *string
	Categories, Keywords         *[]string
}

// A ListingFilter selects templates that a team may start: the public ones, the
// house's and its own.
type ListingFilter struct {
	Team     TeamID
	Query    string // words; empty: all
	Category string // empty: any
	Package  string // one that is in it, as name or manager:name; empty: any
	Mine     bool   // of the team's own
	Sort     ListingSort
	Limit    int    // 0: no limit
	Cursor   string // from the page before; empty is the first page
}

// A ListingSort says in which order listings come.
type ListingSort string

// The orders, the best first.
const (
	ByRelevance ListingSort = "relevance" // how well the words of the query fit
	ByStars     ListingSort = "stars"
	ByStarts    ListingSort = "starts" // how many sandboxes other teams made of it
	ByUpdate    ListingSort = "updated"
	ByName      ListingSort = "name"
)

// A ListingPage is one page of an answer.
type ListingPage struct {
	Listings []*Listing // without their readmes
	Next     string     // the cursor of the next page; empty on the last
	Total    int        // how many the filter selects on all pages
}

// A Report is what a team says is wrong with somebody's template.
type Report struct {
	Template TemplateID
	Team     TeamID // who says so
	Reason   string
	At       time.Time
}
