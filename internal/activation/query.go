package activation

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// Topics of queries of the supervisor.
const (
	TopicExplain = "explain" // policy.Question → policy.Explanation
	TopicRoutes  = "routes"  // null → the rules in force
)

// queryHandlers holds the handlers of this process by topic.
var queryHandlers sync.Map

// HandleQuery registers f for the supervisor's queries of a topic. Its result is sent as JSON. It must
// not block: the link reads nothing else meanwhile.
func HandleQuery[Q, A any](topic string, f func(Q) A) {
	queryHandlers.Store(topic, func(text []byte) (any, error) {
		var q Q
		if err := json.Unmarshal(text, &q); err != nil {
			return nil, fmt.Errorf("parsing a query about %s: %w", topic, err)
		}
		return f(q), nil
	})
}

// answerQuery calls the handler for "topic question" and returns its result as JSON.
func answerQuery(query string) ([]byte, error) {
	topic, question, _ := strings.Cut(query, " ")
	f, known := queryHandlers.Load(topic)
	if !known {
		return nil, fmt.Errorf("no handler for queries about %s", topic)
	}
	answer, err := f.(func([]byte) (any, error))([]byte(question))
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}
