// Package jsonschema stands in for the validator that mcp-go asks for, and
// hands its work to github.com/google/jsonschema-go, which mcp-go links as
// well. The one that it stands in for compiles its meta-schemas when a process
// starts: 4 ms and 1.7 MB in every process of the bundle, for one tool call in
// one of them. It has what mcp-go uses and no more; docs/decisions says why.
package jsonschema

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/jsonschema-go/jsonschema"
)

// UnmarshalJSON decodes one JSON document; anything behind it is an error.
func UnmarshalJSON(r io.Reader) (any, error) {
	dec := json.NewDecoder(r)
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("one JSON document was wanted")
	}
	return doc, nil
}

// Compiler holds schemas by their names until they are compiled.
type Compiler struct{ docs map[string]any }

// NewCompiler makes an empty compiler.
func NewCompiler() *Compiler { return &Compiler{docs: map[string]any{}} }

// AddResource adds a decoded schema.
func (c *Compiler) AddResource(url string, doc any) error {
	if _, twice := c.docs[url]; twice {
		return fmt.Errorf("schema %s is there twice", url)
	}
	c.docs[url] = doc
	return nil
}

// Compile makes a schema ready. It loads nothing: references must lie within
// the schema.
func (c *Compiler) Compile(url string) (*Schema, error) {
	doc, ok := c.docs[url]
	if !ok {
		return nil, fmt.Errorf("there is no schema %s", url)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("reading schema %s: %w", url, err)
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("reading schema %s: %w", url, err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		return nil, fmt.Errorf("compiling schema %s: %w", url, err)
	}
	return &Schema{resolved}, nil
}

// Schema is a compiled schema.
type Schema struct{ resolved *jsonschema.Resolved }

// Validate returns a *ValidationError when the value does not fit.
func (s *Schema) Validate(v any) error {
	if err := s.resolved.Validate(v); err != nil {
		return &ValidationError{ErrorKind: err}
	}
	return nil
}

// ValidationError says what does not fit. The validator stops at the first
// fault, so there are no causes, and says itself where that is.
type ValidationError struct {
	Causes           []*ValidationError
	InstanceLocation []string
	ErrorKind        error
}

func (e *ValidationError) Error() string { return e.ErrorKind.Error() }
