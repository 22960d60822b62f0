package pair

// Check is one thing that a person may have to do something about.
type Check struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Says  string `json:"says"`
}

// States of a check.
const (
	Good = "ok"
	Warn = "warn" // works, with less than there could be
	Bad  = "bad"  // does not work
)
