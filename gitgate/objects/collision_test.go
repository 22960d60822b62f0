package objects

import (
	"encoding/base64"
	"errors"
	"testing"
)

// shattered is how both files of the first public collision of SHA-1 begin (shattered.io, 2017).
const shattered = "JVBERi0xLjMKJeLjz9MKCgoxIDAgb2JqCjw8L1dpZHRoIDIgMCBSL0hlaWdodCAzIDAgUi9UeXBlIDQgMCBSL1N1YnR5cGUgNSAwIFIvRmlsdGVyIDYgMCBSL0NvbG9yU3BhY2UgNyAwIFIvTGVuZ3RoIDggMCBSL0JpdHNQZXJDb21wb25lbnQgOD4+CnN0cmVhbQr/2P/+ACRTSEEtMSBpcyBkZWFkISEhISGFL+wJIzl1nDmxocY8TJfh//4Bc0bckWa2fhGPApq2IbJWD/nKZ8yox/hbqEx5AwwrPeIY+G2zqQkB1d9FwU8m/t+z3DjpasIv571yjw5FvOBG0jxXD+sUE5i7VS71oKgr4zH+pIA3uLXXHw4zLt+TrDUA603cDezBqGR5DHgsdiFWYN0wl5HQa9CvP5jNpLxGKbE="

// What was made for a collision is noticed by the hash that names objects.
func TestCollision(t *testing.T) {
	data, err := base64.StdEncoding.DecodeString(shattered)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		data []byte
		want error
	}{{data, ErrCollision}, {data[:192], nil}, {data[1:], nil}} {
		h := newSHA()
		_, _ = h.Write(c.data) // never fails
		if err := sumInto(new(Hash), h); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%d bytes: %v, want %v", len(c.data), err, c.want)
		}
	}
}
