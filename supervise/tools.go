package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/proposal"
)

// progressInterval is how often a call that waits sends progress. Clients time out after a minute
// without a first byte, so the first progress is sent at once.
const progressInterval = 10 * time.Second

// service implements the MCP tools. It is read-only, and handles calls concurrently.
type service struct {
	store     *proposal.Store
	audit     *audit.Log
	dirs      bundle.Dirs
	daemonCtx context.Context // ends when the daemon stops
	wait      time.Duration
	maxOpen   int
	maxText   int
}

const instructions = `You run inside Airlock: requests that no rule allows are refused, and git pushes are scanned for secrets.
A refusal names its rule. Ask for what you need with request_access (url, methods, why); a person on the host decides.`

// handler returns the MCP endpoint. It keeps no sessions, so a restart interrupts only calls in
// progress.
func (d *service) handler(log *slog.Logger) http.Handler {
	s := server.NewMCPServer("airlock-supervise", "1",
		server.WithToolCapabilities(false), server.WithRecovery(), server.WithInputSchemaValidation(),
		server.WithStrictInputSchemaDefault(), server.WithInstructions(instructions),
		server.WithToolHandlerMiddleware(countCalls), server.WithHooks(argumentHooks()))
	d.addTools(s)
	return checkHostAndOrigin(server.NewStreamableHTTPServer(s,
		server.WithStateLess(true), server.WithStreamableHTTPLogger(log),
		// The library allows loopback names only; checkHostAndOrigin checks all names.
		server.WithDisableLocalhostProtection(true)))
}

func argumentHooks() *server.Hooks {
	hooks := &server.Hooks{}
	hooks.AddBeforeCallTool(canonicalArguments)
	return hooks
}

func (d *service) addTools(s *server.MCPServer) {
	s.AddTool(mcp.NewTool("request_access", toolOptions("Ask for access", writesProposal,
		"Ask the operator to let requests to a URL pass. Answers at once where the rules let them pass already. Waits for the answer for a while; if none came, call proposal_status later. When it was approved, repeat the request that was refused."),
		mcp.WithString("url", mcp.Required(), mcp.MaxLength(2048), mcp.Description("The URL that was refused, like https://api.example.com/v1/items")),
		mcp.WithArray("methods", mcp.Description("HTTP methods that are needed; GET when left out"), mcp.WithStringItems()),
		mcp.WithString("why", mcp.Required(), mcp.Description("What it is needed for, in a sentence or two, for the person who decides")),
	), d.requestAccess)
	s.AddTool(mcp.NewTool("ask_operator", toolOptions("Ask the operator a question", writesProposal,
		"Ask the operator a question. Waits for the answer for a while; if none came, call proposal_status later."),
		mcp.WithString("question", mcp.Required(), mcp.Description("The question")),
		mcp.WithArray("choices", mcp.Description("Answers to choose from; the operator may give another"), mcp.WithStringItems()),
	), d.askOperator)
	s.AddTool(mcp.NewTool("proposal_status", toolOptions("Status of a request", onlyReads,
		"The state of a request or question of yours, and its answer."),
		mcp.WithString("id", mcp.Required(), mcp.Description("The id that request_access or ask_operator answered with")),
	), d.proposalStatus)
	s.AddTool(mcp.NewTool("list_access", toolOptions("List access", onlyReads,
		"What the rules let pass now: hosts, methods and paths."),
	), d.listAccess)
}

// Kinds of tools, for their annotations.
const (
	onlyReads      = true
	writesProposal = false
)

// toolOptions sets the title, the description and the annotations of a tool. No tool destroys anything
// or reaches beyond the pair and its operator. All are idempotent, because equal open proposals are
// one proposal.
func toolOptions(title string, readOnly bool, text string) mcp.ToolOption {
	no, yes := false, true
	return func(t *mcp.Tool) {
		t.Title, t.Description = title, text
		t.Annotations = mcp.ToolAnnotation{Title: title, ReadOnlyHint: &readOnly, DestructiveHint: &no, IdempotentHint: &yes, OpenWorldHint: &no}
	}
}

// argumentAliases maps names that models also use for arguments to the right ones.
var argumentAliases = map[string]string{"reason": "why", "justification": "why", "purpose": "why", "method": "methods"}

// canonicalArguments renames aliased arguments of request_access before they are validated against the
// schema.
func canonicalArguments(_ context.Context, _ any, call *mcp.CallToolRequest) {
	args, ok := call.Params.Arguments.(map[string]any)
	if !ok || call.Params.Name != "request_access" {
		return
	}
	for other, name := range argumentAliases {
		value, given := args[other]
		if !given {
			continue
		}
		if text, ok := value.(string); ok && name == "methods" {
			value = []any{text}
		}
		delete(args, other)
		if _, twice := args[name]; !twice {
			args[name] = value
		}
	}
}

func (d *service) requestAccess(ctx context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	methods := call.GetStringSlice("methods", []string{"GET"})
	p, err := newAccess(call.GetString("url", ""), methods, call.GetString("why", ""), d.maxText)
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	if rule := allowedBy(d.dirs, p, time.Now()); rule != "" {
		a := toolResult{State: stateAllowed, Next: "the rules let this pass already (" + rule + "): send the request; where it was refused, the refusal names another reason"}
		return mcp.NewToolResultStructured(a, a.State+": "+a.Next), nil
	}
	if last, ok, err := d.store.Last(p); err == nil && ok && last.State == proposal.Approved && time.Since(last.Answered) < approvalWindow {
		return proposalResult(last), nil
	}
	return d.submit(ctx, call, p)
}

// approvalWindow is how long after an approval an equal request is answered with that approval,
// although the rules in force may not contain it yet.
const approvalWindow = 30 * time.Second

// stateAllowed is the state in the result for a request that the rules already allow.
const stateAllowed = "allowed"

func (d *service) askOperator(ctx context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	p, err := newQuestion(call.GetString("question", ""), call.GetStringSlice("choices", nil), d.maxText)
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return d.submit(ctx, call, p)
}

// submit stores a proposal and waits up to d.wait for its answer.
func (d *service) submit(ctx context.Context, call mcp.CallToolRequest, p proposal.Proposal) (*mcp.CallToolResult, error) {
	p, err := d.store.Create(p, d.maxOpen)
	if errors.Is(err, proposal.ErrTooMany) {
		return mcp.NewToolResultError(err.Error()), nil
	}
	if err == nil {
		err = d.audit.Record(audit.Entry{Verdict: "ask", Proposal: p.ID, Rule: p.Kind, Host: hostOf(p.URL), Method: strings.Join(p.Methods, ",")})
	}
	if err != nil {
		return mcp.NewToolResultError("the proposal could not be written down: " + err.Error()), nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	stop := context.AfterFunc(d.daemonCtx, cancel)
	defer stop()
	progressDone := startProgress(ctx, call)
	p, err = d.store.Wait(ctx, p.ID)
	cancel()
	<-progressDone // no progress may be sent after the result
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return proposalResult(p), nil
}

// startProgress sends progress until ctx ends, if the client asked for it. The channel is closed after
// the last one.
func startProgress(ctx context.Context, call mcp.CallToolRequest) <-chan struct{} {
	done := make(chan struct{})
	srv := server.ServerFromContext(ctx)
	if call.Params.Meta == nil || call.Params.Meta.ProgressToken == nil || srv == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for n := 1; ; n++ {
			// The call itself notices when the client disconnects.
			_ = srv.SendNotificationToClient(ctx, "notifications/progress", map[string]any{
				"progressToken": call.Params.Meta.ProgressToken, "progress": n, "message": "waiting for the operator",
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

func (d *service) proposalStatus(_ context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	p, err := d.store.Get(call.GetString("id", ""))
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return proposalResult(p), nil
}

// toolResult is the structured result of a tool that concerns a proposal.
type toolResult struct {
	ID     string `json:"id,omitempty"` // empty where no proposal is needed
	State  string `json:"state"`
	Answer string `json:"answer,omitempty"`
	Next   string `json:"next"`
}

// proposalResult returns the state of a proposal and what the agent should do next.
func proposalResult(p proposal.Proposal) *mcp.CallToolResult {
	a := toolResult{ID: p.ID, State: p.State, Answer: p.Answer}
	switch p.State {
	case proposal.Approved:
		if p.Kind == proposal.Leak {
			a.Next = "that one request has passed; the next one like it is asked about again"
			break
		}
		if p.Kind == proposal.GitAllow {
			a.Next = "the value is let into that repository: push again"
			break
		}
		a.Next = "the rule is in force: repeat the request"
	case proposal.Denied:
		a.Next = "the operator said no: do it another way, and do not ask for the same again"
	case proposal.Answered:
		a.Next = "go on with the answer"
	default:
		a.Next = "nobody has answered yet: call proposal_status with this id later"
	}
	text := fmt.Sprintf("%s (%s): %s", a.State, a.ID, a.Next)
	if a.Answer != "" {
		text += "\nThe operator says: " + a.Answer
	}
	return mcp.NewToolResultStructured(a, text)
}

func (d *service) listAccess(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	list, err := readAccess(d.dirs)
	if err != nil {
		return mcp.NewToolResultError("the rules cannot be read now"), nil
	}
	return mcp.NewToolResultStructured(list, list.text()), nil
}
