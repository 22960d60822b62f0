package secrets

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
	"github.com/rs/zerolog"
	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/logging"
)

// truncatedKey finds a private key without its end.
var truncatedKey = rule{id: "private-key", words: keyWords, body: sync.OnceValue(func() *body {
	return &body{regex: regexp.MustCompile(privateKeyPattern), matchWindow: matchWindowOf(privateKeyPattern, keyWords)}
})}

// keyWords are what each private key in PEM has in its first line. In forms, a plus sign is a
// space.
var keyWords = []string{"private key", "private+key", "private_key"}

// ruleset is gitleaks' configuration, compiled for the engine. It is immutable.
type ruleset struct {
	rules       []rule
	byWord      [][]int // keyword → indexes of rules
	words       *words
	transformed []transformedKeyword // reversed and rot13 keywords, whose numbers follow those of byWord
	always      []int                // rules without a keyword
	paths       []int                // rules that want a path
	allow       []allowlist          // for every rule
}

// gitleaksMu guards gitleaks' package variables (its extend depth, its global viper, its logger).
var gitleaksMu sync.Mutex

// The built-in allowlist means to excuse the words true, false and null, but its alternation is not
// grouped, so that any secret with "false" inside is excused too.
const (
	unanchoredWords = `(?i)^true|false|null$`
	anchoredWords   = `(?i)^(?:true|false|null)$`
)

// What most rules require after a secret has an escaped line end in it, but not an escaped quote:
// how JSON looks inside JSON.
const (
	lineEnd       = `\\[nr]|$`
	lineEndOrMark = `\\[nrt"'/]|$`
)

// What may be between a name and its value lacks the backslash, before a quote in JSON.
const (
	beforeValue        = "[\\x60'\"\\s=]{0,5}"
	beforeValueEscaped = "[\\x60'\"\\s=\\\\]{0,6}"
)

// patched returns the built-in rules with the above corrected.
func patched() string {
	return strings.NewReplacer(unanchoredWords, anchoredWords, lineEnd, lineEndOrMark, beforeValue, beforeValueEscaped).Replace(config.DefaultConfig)
}

// privateKeyPattern matches a private key without its end: gitleaks' own rule requires the end
// line. Before the first line of base64 there may be other text, such as a line number.
const privateKeyPattern = `-----BEGIN[ +_A-Z0-9-]{0,100}PRIVATE[ +_]KEY(?:[ +_]BLOCK)?-----(?:[\s\S]{0,40}?[A-Za-z0-9-]{1,40}: [^\n]{0,100}){0,4}[\s\S]{0,40}?[A-Za-z0-9+/]{48}`

// compileBuiltin reads gitleaks' own rules and leaves each to be compiled when
// it is needed. That they all compile is shown by a test.
func compileBuiltin() (*ruleset, error) {
	vc, err := parseBuiltin()
	if err != nil {
		return nil, err
	}
	general := vc
	general.Rules = nil
	cfg, err := translate(general)
	if err != nil {
		return nil, err
	}
	allow, err := newAllowlists(cfg.Allowlists)
	if err != nil {
		return nil, err
	}
	rs := &ruleset{allow: allow, rules: []rule{truncatedKey}}
	for i, r := range vc.Rules {
		if r.SkipReport || len(r.Required) > 0 {
			return nil, fmt.Errorf("the built-in rules have changed: %s needs other rules", r.ID)
		}
		one := config.ViperConfig{Rules: vc.Rules[i : i+1]}
		rs.rules = append(rs.rules, rule{
			id: r.ID, words: r.Keywords, named: strings.Contains(r.Regex, nameBefore), pathOnly: r.Regex == "", pathed: r.Path != "",
			body: sync.OnceValue(func() *body { return mustCompile(one) }),
		})
	}
	return rs, rs.index()
}

// mustCompile makes the body of the only rule there is. A scan that panics
// blocks what it should have seen.
func mustCompile(vc config.ViperConfig) *body {
	cfg, err := translate(vc)
	if err == nil {
		var b *body
		if b, err = compile(cfg.Rules[vc.Rules[0].ID]); err == nil {
			return b
		}
	}
	panic(err)
}

// parseBuiltin decodes the built-in rules without viper, which takes four
// times as long. They are trusted, and a test compares the outcomes.
func parseBuiltin() (vc config.ViperConfig, err error) {
	for _, known := range []string{unanchoredWords, lineEnd, beforeValue} {
		if !strings.Contains(config.DefaultConfig, known) {
			return vc, errors.New("the built-in rules have changed: review the patches to them")
		}
	}
	err = toml.Unmarshal([]byte(patched()), &vc)
	return vc, err
}

func compileCustom(text string) (*ruleset, error) {
	vc, err := parseCustom(text)
	if err != nil {
		return nil, err
	}
	custom, err := translate(vc)
	if err != nil {
		return nil, err
	}
	if !vc.Extend.UseDefault {
		return newRuleset(custom)
	}
	builtin, err := parseBuiltin()
	if err != nil {
		return nil, err
	}
	base, err := translate(builtin)
	if err != nil {
		return nil, err
	}
	custom.Extend = vc.Extend
	return newRuleset(overlay(base, custom))
}

// parseCustom decodes an operator's TOML.
func parseCustom(text string) (vc config.ViperConfig, err error) {
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(text)); err != nil {
		return vc, err
	}
	if err := v.UnmarshalExact(&vc); err != nil {
		return vc, err
	}
	if vc.Extend.Path != "" || vc.Extend.URL != "" {
		return vc, errors.New("extend.path and extend.url are refused: put the rules into this file, or set extend.useDefault")
	}
	return vc, nil
}

// translate compiles rules without following their extend section: gitleaks counts extensions in a
// package variable and silently stops extending at the third, which would drop every built-in rule.
func translate(vc config.ViperConfig) (cfg config.Config, err error) {
	gitleaksMu.Lock()
	defer gitleaksMu.Unlock()
	logging.Logger = zerolog.Nop() // it would print findings
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("bad expression: %v", r)
		}
	}()
	vc.Extend = config.Extend{}
	return vc.Translate()
}

// overlay lays the operator's rules over the built-in ones: same id replaces, disabled ones go.
func overlay(base, custom config.Config) config.Config {
	for _, id := range custom.Extend.DisabledRules {
		delete(base.Rules, id)
	}
	maps.Copy(base.Rules, custom.Rules)
	base.Allowlists = append(base.Allowlists, custom.Allowlists...)
	return base
}

func newRuleset(cfg config.Config) (*ruleset, error) {
	if len(cfg.Rules) == 0 {
		return nil, errors.New("no rules: an empty configuration would let everything pass")
	}
	allow, err := newAllowlists(cfg.Allowlists)
	if err != nil {
		return nil, err
	}
	rs := &ruleset{allow: allow, rules: []rule{truncatedKey}}
	for _, id := range slices.Sorted(maps.Keys(cfg.Rules)) {
		one := cfg.Rules[id]
		if one.SkipReport && len(one.RequiredRules) == 0 {
			continue
		}
		made, err := compile(one)
		if err != nil {
			return nil, err
		}
		rs.rules = append(rs.rules, rule{
			id: id, words: one.Keywords, named: one.Regex != nil && strings.Contains(one.Regex.String(), nameBefore),
			pathOnly: one.Regex == nil, pathed: one.Path != nil, body: func() *body { return made },
		})
	}
	return rs, rs.index()
}

// nameBefore is how the expressions begin that look for a name before a secret.
const nameBefore = `[\w.-]{0,50}?`

// index builds the table of keywords.
func (rs *ruleset) index() (err error) {
	ids := map[string]int{}
	var all []string
	for i, rule := range rs.rules {
		if len(rule.words) == 0 || slices.ContainsFunc(rule.words, func(w string) bool { return len(w) < 2 }) {
			rs.always = append(rs.always, i)
			continue
		}
		for _, word := range rule.words {
			word = strings.ToLower(word)
			id, ok := ids[word]
			if !ok {
				id = len(all)
				ids[word] = id
				all = append(all, word)
				rs.byWord = append(rs.byWord, nil)
			}
			rs.byWord[id] = append(rs.byWord[id], i)
		}
	}
	for id, word := range slices.Clone(all) {
		if !slices.ContainsFunc(rs.byWord[id], func(i int) bool { return !rs.rules[i].named }) {
			continue
		}
		for _, transform := range transforms {
			if other := transform(word); len(word) >= minHiddenKeyword && other != word {
				all = append(all, other)
				rs.transformed = append(rs.transformed, transformedKeyword{rs.byWord[id], transform})
			}
		}
	}
	for i := range rs.rules {
		if rs.rules[i].pathed {
			rs.paths = append(rs.paths, i)
		}
	}
	rs.words, err = newWords(all)
	return err
}
