package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Limits of everything decoded here, far above what a cluster holds; they bound
// what damaged bytes can make a node allocate.
const (
	// MaxString is the longest text in bytes.
	MaxString = 64 << 10
	// MaxCommand is the longest encoded command in bytes, envelope included.
	MaxCommand = 16 << 20
	// MaxSnapshot is the longest encoded state in bytes.
	MaxSnapshot = 1 << 30
)

// ErrCorrupt is the error of bytes that no encoder wrote.
var ErrCorrupt = errors.New("metadata: damaged bytes")

// coder encodes or decodes, field by field. Each structure names its fields once,
// in one method used in both directions, so the two cannot drift apart. After the
// first error every call is a no-op and the fields keep their zero values.
type coder struct {
	buf      []byte // encoding: written so far; decoding: not yet read
	decoding bool
	version  uint8 // of the layout
	err      error
}

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

// take returns the next n bytes to decode, or zeros after an error.
func (c *coder) take(n int) []byte {
	if c.err == nil && n > len(c.buf) {
		c.fail("%d bytes wanted, %d left", n, len(c.buf))
	}
	if c.err != nil {
		return make([]byte, min(n, 8))
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func code8[T ~uint8](c *coder, v *T) {
	if c.decoding {
		*v = T(c.take(1)[0])
		return
	}
	c.buf = append(c.buf, uint8(*v))
}

func code32[T ~uint32 | ~int32](c *coder, v *T) {
	if c.decoding {
		*v = T(binary.BigEndian.Uint32(c.take(4)))
		return
	}
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(*v))
}

func code64[T ~uint64 | ~int64](c *coder, v *T) {
	if c.decoding {
		*v = T(binary.BigEndian.Uint64(c.take(8)))
		return
	}
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(*v))
}

func (c *coder) bool(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	code8(c, &b)
	if b > 1 {
		c.fail("a truth value of %d", b)
	}
	*v = b == 1
}

// fixed codes an array of known length, such as a topic id.
func (c *coder) fixed(v []byte) {
	if !c.decoding {
		c.buf = append(c.buf, v...)
		return
	}
	if b := c.take(len(v)); c.err == nil {
		copy(v, b)
	}
}

func (c *coder) text(v *string) {
	n := uint32(len(*v))
	if !c.decoding && n > MaxString {
		c.fail("a text of %d bytes, at most %d", n, MaxString)
		return
	}
	code32(c, &n)
	if !c.decoding {
		c.buf = append(c.buf, *v...)
		return
	}
	if n > MaxString {
		c.fail("a text of %d bytes, at most %d", n, MaxString)
		return
	}
	if b := c.take(int(n)); c.err == nil {
		*v = string(b)
	}
}

// count codes the length of a list whose items take at least size bytes each.
func (c *coder) count(n, size int) int {
	v := uint32(n)
	code32(c, &v)
	if !c.decoding {
		return n
	}
	if c.err == nil && int64(v)*int64(size) > int64(len(c.buf)) {
		c.fail("%d items of at least %d bytes, %d bytes left", v, size, len(c.buf))
	}
	if c.err != nil {
		return 0
	}
	return int(v)
}

// list codes a slice of items of at least size bytes. An empty one decodes as nil.
func list[T any](c *coder, v *[]T, size int, item func(*coder, *T)) {
	n := c.count(len(*v), size)
	if c.decoding && n > 0 {
		*v = make([]T, n)
	}
	for i := range n {
		item(c, &(*v)[i])
	}
}

// configs codes a map in key order, so that equal maps have equal bytes.
func (c *coder) configs(v *map[string]string) {
	keys := slices.Sorted(maps.Keys(*v))
	n := c.count(len(keys), 8)
	if c.decoding && n > 0 {
		*v = make(map[string]string, n)
	}
	last := ""
	for i := range n {
		var key, value string
		if !c.decoding {
			key, value = keys[i], (*v)[keys[i]]
		}
		c.text(&key)
		c.text(&value)
		if c.err != nil {
			return
		}
		if c.decoding && i > 0 && key <= last {
			c.fail("configuration keys out of order at %q", key)
			return
		}
		if c.decoding {
			(*v)[key] = value
		}
		last = key
	}
}

// finish reports the first error; bytes left over are one.
func (c *coder) finish() error {
	if c.err == nil && c.decoding && len(c.buf) > 0 {
		c.fail("%d bytes too many", len(c.buf))
	}
	return c.err
}
