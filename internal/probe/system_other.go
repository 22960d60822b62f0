//go:build !linux

package probe

func (c Config) system() []attempt { return nil }
