package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"net/url"
	"reflect"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
)

// sample writes a random text that an expression matches.
func sample(r *rand.Rand, re *syntax.Regexp, b *strings.Builder) {
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		b.WriteRune(pick(r, re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte(byte('a' + r.IntN(26)))
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		lo, hi := re.Min, re.Max
		switch re.Op {
		case syntax.OpStar:
			lo, hi = 0, 8
		case syntax.OpPlus:
			lo, hi = 1, 8
		case syntax.OpQuest:
			lo, hi = 0, 1
		}
		if hi < lo {
			hi = lo + 40
		}
		for range lo + r.IntN(hi-lo+1) {
			sample(r, re.Sub[0], b)
		}
	case syntax.OpAlternate:
		sample(r, re.Sub[r.IntN(len(re.Sub))], b)
	case syntax.OpConcat, syntax.OpCapture:
		for _, sub := range re.Sub {
			sample(r, sub, b)
		}
	}
}

// pick takes a printable character of a class where there is one.
func pick(r *rand.Rand, ranges []rune) rune {
	var all []rune
	for i := 0; i+1 < len(ranges); i += 2 {
		for c := max(ranges[i], ' '); c <= min(ranges[i+1], '~'); c++ {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return ranges[0]
	}
	return all[r.IntN(len(all))]
}

// reference are the built-in rules as gitleaks and viper read them.
func reference(t *testing.T) config.Config {
	t.Helper()
	vc, err := parseCustom(patched())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := translate(vc)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Every built-in rule compiles, and to the same as when all are read at once.
func TestRulesCompiledOneByOne(t *testing.T) {
	cfg := reference(t)
	want, err := newRuleset(cfg)
	if err != nil {
		t.Fatal(err)
	}
	got, err := compileBuiltin()
	if err != nil || len(got.rules) != len(want.rules) || len(want.rules) < 200 {
		t.Fatalf("%d rules, want %d: %v", len(got.rules), len(want.rules), err)
	}
	if !reflect.DeepEqual(got.allow, want.allow) {
		t.Error("the allowlists for every rule differ")
	}
	for i, w := range want.rules {
		n := slices.IndexFunc(got.rules, func(r rule) bool { return r.id == w.id })
		if i == 0 {
			continue // our own, of the same name as one of theirs
		}
		if w.id == truncatedKey.id {
			n = 1 + slices.IndexFunc(got.rules[1:], func(r rule) bool { return r.id == w.id })
		}
		if n < 0 {
			t.Errorf("%s is missing", w.id)
			continue
		}
		g := got.rules[n]
		if !slices.Equal(g.words, w.words) || g.pathOnly != w.pathOnly || g.pathed != w.pathed || !reflect.DeepEqual(g.body(), w.body()) {
			t.Errorf("%s differs", w.id)
		}
	}
}

// Whatever gitleaks itself finds in samples of each of its rules, in several surroundings and
// encodings, is found here too.
func TestFindsWhatGitleaksFinds(t *testing.T) {
	cfg := reference(t)
	detector := detect.NewDetector(cfg)
	detector.IgnoreGitleaksAllow = true
	detector.MaxDecodeDepth = decodeDepth
	s := newScanner(t, Options{})
	r := rand.New(rand.NewPCG(1, 1))
	filler := strings.Repeat("package main // nothing of interest is written in this line, nor in the next\n", 500)
	surroundings := []func(string) string{
		func(x string) string { return x },
		func(x string) string { return "x := \"" + x + "\"\n" },
		func(x string) string { return base64.StdEncoding.EncodeToString([]byte("user: " + x + "\n")) },
		func(x string) string { return hex.EncodeToString([]byte("k " + x + "\n")) },
		func(x string) string { return url.QueryEscape("k = " + x + "\n") },
		func(x string) string { return filler + "a = '" + x + "' # b\n" }, // beyond the first chunk; slow, so seldom
	}
	found, missed := 0, 0
	for n, id := range slices.Sorted(maps.Keys(cfg.Rules)) {
		rule := cfg.Rules[id]
		if rule.Regex == nil {
			continue
		}
		re, err := syntax.Parse(rule.Regex.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		for try := range 3 {
			var b strings.Builder
			sample(r, re, &b)
			for i, surround := range surroundings {
				if i == len(surroundings)-1 && (try > 0 || n%10 != 0) {
					continue
				}
				data := surround(b.String())
				want := map[string]bool{}
				for _, f := range detector.DetectString(data) {
					want[f.RuleID] = true
				}
				got, err := s.Scan(t.Context(), []byte(data))
				if err != nil {
					t.Fatal(err)
				}
				found += len(want)
				if have := rules(got); !covers(have, want) {
					missed++
					t.Errorf("rule %s, surroundings %d: found %v, gitleaks found %v", rule.RuleID, i, have, want)
				}
			}
		}
	}
	if found < 2000 {
		t.Fatalf("gitleaks itself found only %d: the samples are no good", found)
	}
	t.Logf("%d findings of gitleaks', %d missed", found, missed)
}

// covers leaves out generic rules where a precise one has spoken.
func covers(have, want map[string]bool) bool {
	for rule := range want {
		if !have[rule] && !(strings.HasPrefix(rule, "generic") && len(have) > 0) {
			return false
		}
	}
	return true
}
