package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// TestToolsSayWhatTheyDo: clients decide by title and annotations whether a person
// is asked before a call.
func TestToolsSayWhatTheyDo(t *testing.T) {
	b := start(t, nil)
	tools, err := b.connectMCP().ListTools(t.Context(), nil)
	must(t, err)
	readOnly := map[string]bool{"request_access": false, "ask_operator": false, "proposal_status": true, "list_access": true}
	if len(tools.Tools) != len(readOnly) {
		t.Errorf("%d tools, want %d", len(tools.Tools), len(readOnly))
	}
	for _, tool := range tools.Tools {
		a := tool.Annotations
		if a == nil || tool.Title == "" || a.Title != tool.Title || tool.Description == "" {
			t.Errorf("%s: no title or no description: %+v", tool.Name, tool)
			continue
		}
		if a.ReadOnlyHint != readOnly[tool.Name] || a.DestructiveHint == nil || *a.DestructiveHint || !a.IdempotentHint || a.OpenWorldHint == nil || *a.OpenWorldHint {
			t.Errorf("%s: %+v", tool.Name, a)
		}
	}
}

// call calls a tool, which has to answer within the time.
func call(t *testing.T, session *mcp.ClientSession, within time.Duration, tool string, args map[string]any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		t.Fatalf("%s %v: expected an answer within %v, got %v", tool, args, within, err)
	}
	return res.Content[0].(*mcp.TextContent).Text
}

// TestAskForWhatIsAllowed: what the rules let pass, and what was approved a moment
// ago, is answered at once and is no proposal.
func TestAskForWhatIsAllowed(t *testing.T) {
	b := prepare(t, nil)
	b.write("egress.yaml", b.egressYAML(fmt.Sprintf("  - {host: 'new.ok.test:%d', methods: [GET, HEAD], expires: 2099-01-01T00:00:00Z}\n  - {host: 'old.cdn.test:%[1]d', expires: 2020-01-01T00:00:00Z}\n", b.origin.Port())))
	b.write("pipelock.yaml", b.pipelockYAML(fmt.Sprintf("  - new.ok.test:%d\n  - old.cdn.test:%[1]d\n", b.origin.Port())))
	b.run()
	session := b.connectMCP()
	proposals := func() (all []struct{ ID, URL, State, Why string }) {
		must(t, b.ctl.Do(t.Context(), http.MethodGet, "/proposals", nil, nil, &all))
		return all
	}
	for _, args := range []map[string]any{
		{"url": b.url("api.ok.test", "/v1/x"), "why": "to read"},
		{"url": b.url("a.cdn.test", "/x?y=z"), "why": "to read", "methods": []string{"POST"}},
		{"url": b.url("new.ok.test", "/"), "reason": "to read", "method": "head"},
	} {
		if text := call(t, session, 15*time.Second, "request_access", args); !strings.HasPrefix(text, "allowed: ") || !strings.Contains(text, "routes[") {
			t.Errorf("%v: %s", args, text)
		}
	}
	if all := proposals(); len(all) != 0 {
		t.Errorf("expected no proposal, got %+v", all)
	}
	for i, args := range []map[string]any{
		{"url": b.url("api.ok.test", "/v2/x"), "why": "another path"},
		{"url": b.url("new.ok.test", "/"), "justification": "another method", "methods": []string{"GET", "POST"}},
		{"url": b.url("evil.test", "/"), "purpose": "another host"},
		{"url": strings.Replace(b.url("api.ok.test", "/v1/x"), "https", "http", 1), "why": "plain http", "methods": []string{"DELETE"}},
		{"url": "https://a.cdn.test/", "why": "another port"},
	} {
		answered := make(chan string, 1)
		go func() { answered <- call(t, b.connectMCP(), 20*time.Second, "request_access", args) }()
		eventually(t, "the proposal is there", func() bool { return len(proposals()) == i+1 })
		last := proposals()[i]
		if !strings.HasPrefix(last.Why, "another ") && last.Why != "plain http" {
			t.Errorf("%v: %+v", args, last)
		}
		must(t, b.ctl.Do(t.Context(), http.MethodPost, "/proposals/"+last.ID, nil, strings.NewReader(`{"State":"approved"}`), nil))
		select {
		case text := <-answered:
			if !strings.HasPrefix(text, "approved ("+last.ID) {
				t.Errorf("%v: %s", args, text)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%v: no answer came after the approval", args)
		}
		if text := call(t, session, 15*time.Second, "request_access", args); !strings.HasPrefix(text, "approved ("+last.ID) || len(proposals()) != i+1 {
			t.Errorf("%v again: %s; %d proposals", args, text, len(proposals()))
		}
	}
}
