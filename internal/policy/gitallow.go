package policy

// GitAllow asks for a value that looks like a secret to be let into a repository from now on. It names the value by a keyed digest
// and tells where it stands, never what it is.
type GitAllow struct {
	Repo   string `json:"repo"`
	Rule   string `json:"rule"`
	Digest string `json:"digest"`
	Place  string `json:"place"`          // file and line, and the object
	Says   string `json:"says,omitempty"` // the agent's words
}
