package soulbox

// A HouseTemplate is a template that the server brings along and builds itself,
// on its template base, for every team.
type HouseTemplate struct {
	Name    string
	Recipe  Recipe // a Dockerfile, and what is left running
	Listing ListingChange
}
