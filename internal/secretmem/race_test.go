//go:build race

package secretmem

const race = true
