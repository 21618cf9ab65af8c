package soulbox

// A Problem is something in a Dockerfile that is wrong, or only not good.
type Problem struct {
	Line    int    // from 1; 0: the file as a whole
	Rule    string // the linter's name for it, such as StageNameCasing; may be empty
	Message string // what is the matter
	Remedy  string // what to do about it; may be empty
	URL     string // where more about the rule is written; may be empty
	Fatal   bool   // it cannot be built
}
