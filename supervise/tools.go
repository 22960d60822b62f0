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

// beat is how often a call that waits shows that it lives. Clients give up
// after a minute without a first byte, so the first beat comes at once.
const beat = 10 * time.Second

// desk is where the agent's calls arrive.
type desk struct {
	store *proposal.Store
	audit *audit.Log
	dirs  bundle.Dirs
	over  context.Context // ends with the daemon
	wait  time.Duration
	open  int
	text  int
}

const instructions = `You run inside Airlock: requests that no rule allows are refused, and git pushes are scanned for secrets.
A refusal names its rule. Ask for what you need with request_access (url, methods, why); a person on the host decides.`

// handler is the MCP endpoint. It keeps no session: a restart strands nobody.
func (d *desk) handler(log *slog.Logger) http.Handler {
	s := server.NewMCPServer("airlock-supervise", "1",
		server.WithToolCapabilities(false), server.WithRecovery(), server.WithInputSchemaValidation(),
		server.WithStrictInputSchemaDefault(), server.WithInstructions(instructions),
		server.WithToolHandlerMiddleware(tally), server.WithHooks(renaming()))
	d.addTools(s)
	return guardNames(server.NewStreamableHTTPServer(s,
		server.WithStateLess(true), server.WithStreamableHTTPLogger(log),
		// It knows no names but those of loopback: guardNames checks all.
		server.WithDisableLocalhostProtection(true)))
}

func renaming() *server.Hooks {
	hooks := &server.Hooks{}
	hooks.AddBeforeCallTool(rename)
	return hooks
}

func (d *desk) addTools(s *server.MCPServer) {
	s.AddTool(mcp.NewTool("request_access", describe("Ask for access", asks,
		"Ask the operator to let requests to a URL pass. Answers at once where the rules let them pass already. Waits for the answer for a while; if none came, call proposal_status later. When it was approved, repeat the request that was refused."),
		mcp.WithString("url", mcp.Required(), mcp.MaxLength(2048), mcp.Description("The URL that was refused, like https://api.example.com/v1/items")),
		mcp.WithArray("methods", mcp.Description("HTTP methods that are needed; GET when left out"), mcp.WithStringItems()),
		mcp.WithString("why", mcp.Required(), mcp.Description("What it is needed for, in a sentence or two, for the person who decides")),
	), d.requestAccess)
	s.AddTool(mcp.NewTool("ask_operator", describe("Ask the operator a question", asks,
		"Ask the operator a question. Waits for the answer for a while; if none came, call proposal_status later."),
		mcp.WithString("question", mcp.Required(), mcp.Description("The question")),
		mcp.WithArray("choices", mcp.Description("Answers to choose from; the operator may give another"), mcp.WithStringItems()),
	), d.askOperator)
	s.AddTool(mcp.NewTool("proposal_status", describe("Status of a request", reads,
		"The state of a request or question of yours, and its answer."),
		mcp.WithString("id", mcp.Required(), mcp.Description("The id that request_access or ask_operator answered with")),
	), d.proposalStatus)
	s.AddTool(mcp.NewTool("list_access", describe("List access", reads,
		"What the rules let pass now: hosts, methods and paths."),
	), d.listAccess)
}

// Whether a tool only reads, or writes a proposal down.
const (
	reads = true
	asks  = false
)

// describe gives a tool its title, its description and its annotations. None of
// them destroys anything, or reaches beyond the pair and its operator; calling one
// twice with the same arguments is calling it once, because the same open
// proposals are one.
func describe(title string, readOnly bool, text string) mcp.ToolOption {
	no, yes := false, true
	return func(t *mcp.Tool) {
		t.Title, t.Description = title, text
		t.Annotations = mcp.ToolAnnotation{Title: title, ReadOnlyHint: &readOnly, DestructiveHint: &no, IdempotentHint: &yes, OpenWorldHint: &no}
	}
}

// otherNames are arguments as models also call them, and their names.
var otherNames = map[string]string{"reason": "why", "justification": "why", "purpose": "why", "method": "methods"}

// rename gives arguments of request_access their names before they are compared with
// the schema, which has one name for each.
func rename(_ context.Context, _ any, call *mcp.CallToolRequest) {
	args, ok := call.Params.Arguments.(map[string]any)
	if !ok || call.Params.Name != "request_access" {
		return
	}
	for other, name := range otherNames {
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

func (d *desk) requestAccess(ctx context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	methods := call.GetStringSlice("methods", []string{"GET"})
	p, err := newAccess(call.GetString("url", ""), methods, call.GetString("why", ""), d.text)
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	if rule := allowedBy(d.dirs, p, time.Now()); rule != "" {
		a := answer{State: stateAllowed, Next: "the rules let this pass already (" + rule + "): send the request; where it was refused, the refusal names another reason"}
		return mcp.NewToolResultStructured(a, a.State+": "+a.Next), nil
	}
	if last, ok, err := d.store.Last(p); err == nil && ok && last.State == proposal.Approved && time.Since(last.Answered) < justApproved {
		return result(last), nil
	}
	return d.file(ctx, call, p)
}

// justApproved is for how long after an approval a request for the same is answered
// with it, although the rules do not show it.
const justApproved = 30 * time.Second

// stateAllowed is the answer to a request for what the rules let pass already.
const stateAllowed = "allowed"

func (d *desk) askOperator(ctx context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	p, err := newQuestion(call.GetString("question", ""), call.GetStringSlice("choices", nil), d.text)
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return d.file(ctx, call, p)
}

// file writes the proposal down and waits for its answer.
func (d *desk) file(ctx context.Context, call mcp.CallToolRequest, p proposal.Proposal) (*mcp.CallToolResult, error) {
	p, err := d.store.Create(p, d.open)
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
	stop := context.AfterFunc(d.over, cancel)
	defer stop()
	beating := startBeat(ctx, call)
	p, err = d.store.Wait(ctx, p.ID)
	cancel()
	<-beating // no progress may come after the result
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return result(p), nil
}

// startBeat sends progress until ctx ends, if the caller asked for it. The
// channel closes when the last one was sent.
func startBeat(ctx context.Context, call mcp.CallToolRequest) <-chan struct{} {
	done := make(chan struct{})
	srv := server.ServerFromContext(ctx)
	if call.Params.Meta == nil || call.Params.Meta.ProgressToken == nil || srv == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for n := 1; ; n++ {
			// A client that went away is noticed by the call itself.
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

func (d *desk) proposalStatus(_ context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	p, err := d.store.Get(call.GetString("id", ""))
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return result(p), nil
}

// answer is what a tool returns about a proposal.
type answer struct {
	ID     string `json:"id,omitempty"` // none where no proposal is needed
	State  string `json:"state"`
	Answer string `json:"answer,omitempty"`
	Next   string `json:"next"`
}

func result(p proposal.Proposal) *mcp.CallToolResult {
	a := answer{ID: p.ID, State: p.State, Answer: p.Answer}
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

func (d *desk) listAccess(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	list, err := readAccess(d.dirs)
	if err != nil {
		return mcp.NewToolResultError("the rules cannot be read now"), nil
	}
	return mcp.NewToolResultStructured(list, list.text()), nil
}
