// Package logs makes the logger of every process of a bundle: text or JSON,
// as AIRLOCK_LOG says, with a level that can change while the process runs.
package logs

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"airlock/internal/config"
)

// Variables that New and FromEnv read.
const (
	VarFormat = "AIRLOCK_LOG"       // text (also when unset) or json
	VarLevel  = "AIRLOCK_LOG_LEVEL" // debug, info (also when unset), warn or error
)

// level is that of all loggers of this process.
var level slog.LevelVar

// New makes a logger that writes to w. A wrong variable is a usage error.
func New(w io.Writer) (*slog.Logger, error) {
	json, err := FromEnv()
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: &level}
	if json {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// FromEnv reads the variables: it sets the level, and tells the format.
func FromEnv() (json bool, err error) {
	switch format := os.Getenv(VarFormat); format {
	case "", "text":
	case "json":
		json = true
	default:
		return false, config.Usagef("%s: %q is neither text nor json", VarFormat, format)
	}
	if text := os.Getenv(VarLevel); text != "" {
		if err := SetLevel(text); err != nil {
			return false, config.Usagef("%s: %v", VarLevel, err)
		}
	}
	return json, nil
}

// Levels are the words that SetLevel takes.
func Levels() []string { return []string{"debug", "info", "warn", "error"} }

// Check tells whether the word is one of Levels.
func Check(word string) error {
	for _, l := range Levels() {
		if word == l {
			return nil
		}
	}
	return config.Usagef("%q is no level; there are %s", word, strings.Join(Levels(), ", "))
}

// SetLevel changes the level of every logger of this process.
func SetLevel(word string) error {
	if err := Check(word); err != nil {
		return err
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(word)); err != nil {
		return err
	}
	level.Set(l)
	return nil
}
