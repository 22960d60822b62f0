package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// agent is what runs in the agent's place: an ordinary program that takes its
// proxy and its certificates from the environment.
func agent(args []string) int {
	switch {
	case len(args) == 1 && args[0] == "idle":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return 0
	case len(args) == 2 && args[0] == "get":
		return request(http.MethodGet, args[1], "")
	case len(args) == 3 && args[0] == "post":
		return request(http.MethodPost, args[1], args[2])
	case len(args) == 3 && args[0] == "ask":
		return ask(args[1], args[2])
	}
	fmt.Fprintln(os.Stderr, "usage: agent idle | get URL | post URL BODY | ask URL WHY")
	return 2
}

func request(method, target, body string) int {
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Authorization", "Bearer i-have-none")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	fmt.Println(res.Status)
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		return fail(err)
	}
	if res.StatusCode >= 400 {
		return 1
	}
	return 0
}

func ask(target, why string) int {
	client := mcp.NewClient(&mcp.Implementation{Name: "demo-agent", Version: "1"}, nil)
	ctx := context.Background()
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: os.Getenv("AIRLOCK_MCP_URL")}, nil)
	if err != nil {
		return fail(err)
	}
	defer session.Close()
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "request_access", Arguments: map[string]any{"url": target, "why": why}})
	if err != nil {
		return fail(err)
	}
	for _, c := range res.Content {
		if text, ok := c.(*mcp.TextContent); ok {
			fmt.Println(text.Text)
		}
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
