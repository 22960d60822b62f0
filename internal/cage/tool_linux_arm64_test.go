package cage_test

// olderModes: this architecture has none of them.
func olderModes(func(string, uintptr, ...uintptr), string, uintptr, uintptr, func(string) uintptr) {}
