//go:build !linux

package probe

func system([]string) []attempt { return nil }
