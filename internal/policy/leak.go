package policy

// Leak is a request that waits, because something was found in it that looks
// like a secret. It tells where, and by which rule, never what.
type Leak struct {
	Rule   string `json:"rule"`
	Why    string `json:"why"`
	URL    string `json:"url"` // without what may hold the secret
	Method string `json:"method"`
	// Overwritten says that the request went on without what was found: it is a notice, which waits for no answer.
	Overwritten bool `json:"overwritten,omitempty"`
}
