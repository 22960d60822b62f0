package secrets

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/logging"
)

// ruleset is gitleaks' configuration made ready for the engine. It is immutable.
type ruleset struct {
	rules  []rule
	reach  []reach // how far from a keyword each rule looks
	byWord [][]int // keyword → indexes of rules
	words  *words
	always []int       // rules without a keyword
	allow  []allowlist // for every rule
}

// translating guards gitleaks' package variables (its extend depth, its global viper, its logger).
var translating sync.Mutex

// The built-in allowlist means to excuse the words true, false and null, but its alternation is not grouped, so that any
// secret with "false" inside is excused too.
const (
	looseWords  = `(?i)^true|false|null$`
	strictWords = `(?i)^(?:true|false|null)$`
)

// privateKeyPattern finds a key that was cut off: gitleaks' own rule wants to see the end line.
const privateKeyPattern = `-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----(?:[\s\\rn"',+]{0,40}[A-Za-z0-9-]{1,40}: [^\n]{0,100}){0,4}[\s\\rn"',+]{0,40}[A-Za-z0-9+/]{48}`

func compileBuiltin() (*ruleset, error) {
	cfg, err := translateBuiltin()
	if err != nil {
		return nil, err
	}
	return newRuleset(cfg)
}

func translateBuiltin() (config.Config, error) {
	if !strings.Contains(config.DefaultConfig, looseWords) {
		return config.Config{}, errors.New("the built-in rules have changed: review their allowlist")
	}
	return translate(strings.ReplaceAll(config.DefaultConfig, looseWords, strictWords))
}

func compileCustom(toml string) (*ruleset, error) {
	custom, err := translate(toml)
	if err != nil {
		return nil, err
	}
	if !custom.Extend.UseDefault {
		return newRuleset(custom)
	}
	base, err := translateBuiltin()
	if err != nil {
		return nil, err
	}
	return newRuleset(overlay(base, custom))
}

// translate parses one TOML without following its extend section: gitleaks counts extensions in a package variable and
// silently stops extending at the third, which would drop every built-in rule.
func translate(toml string) (cfg config.Config, err error) {
	translating.Lock()
	defer translating.Unlock()
	logging.Logger = zerolog.Nop() // it would print findings
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("bad expression: %v", r)
		}
	}()
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(toml)); err != nil {
		return cfg, err
	}
	var vc config.ViperConfig
	if err := v.UnmarshalExact(&vc); err != nil {
		return cfg, err
	}
	if vc.Extend.Path != "" || vc.Extend.URL != "" {
		return cfg, errors.New("extend.path and extend.url are refused: put the rules into this file, or set extend.useDefault")
	}
	extend := vc.Extend
	vc.Extend = config.Extend{}
	cfg, err = vc.Translate()
	cfg.Extend = extend
	return cfg, err
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
	cut := rule{id: "private-key", regex: regexp.MustCompile(privateKeyPattern), words: []string{"private key"}}
	rs := &ruleset{allow: allow, rules: []rule{cut}}
	for _, id := range slices.Sorted(maps.Keys(cfg.Rules)) {
		one := cfg.Rules[id]
		if one.SkipReport && len(one.RequiredRules) == 0 {
			continue
		}
		r, err := newRule(one)
		if err != nil {
			return nil, err
		}
		rs.rules = append(rs.rules, r)
	}
	return rs, rs.index()
}

// index builds the keyword automaton.
func (rs *ruleset) index() (err error) {
	for _, rule := range rs.rules {
		var r reach
		if rule.regex != nil && len(rule.words) > 0 {
			r = reachOf(rule.regex.String(), rule.words)
		}
		rs.reach = append(rs.reach, r)
	}
	ids := map[string]int{}
	var all []string
	for i, rule := range rs.rules {
		if len(rule.words) == 0 || slices.Contains(rule.words, "") {
			rs.always = append(rs.always, i)
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
	rs.words, err = newWords(all)
	return err
}
