package handoff

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// Topics of what the supervisor may ask.
const (
	TopicExplain = "explain" // policy.Question → policy.Explanation
	TopicRoutes  = "routes"  // null → the rules that are in force
)

// answers are what this process can be asked, by topic.
var answers sync.Map

// Answer lets f answer the supervisor's questions of a topic. What it returns
// is written as JSON. It must be quick: the link waits.
func Answer[Q, A any](topic string, f func(Q) A) {
	answers.Store(topic, func(text []byte) (any, error) {
		var q Q
		if err := json.Unmarshal(text, &q); err != nil {
			return nil, fmt.Errorf("reading a question about %s: %w", topic, err)
		}
		return f(q), nil
	})
}

// consult finds the answer to a topic and a question.
func consult(asked string) ([]byte, error) {
	topic, question, _ := strings.Cut(asked, " ")
	f, known := answers.Load(topic)
	if !known {
		return nil, fmt.Errorf("nobody answers about %s", topic)
	}
	answer, err := f.(func([]byte) (any, error))([]byte(question))
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}
