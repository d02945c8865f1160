package log

import (
	"testing"

	"github.com/millrace/millrace/segment"
)

// TestTailCache: it is bounded by what its frames keep alive, drops the oldest,
// copies small frames out of large buffers, and takes out what was cut.
func TestTailCache(t *testing.T) {
	l, other := &Log{}, &Log{}
	c := NewTailCache(10_000)
	key := func(i int) cacheKey { return cacheKey{log: l, index: segment.Index(i), term: 1} }
	for i := range 100 {
		c.put(key(i), make([]byte, 1000), 0)
		if c.used > c.capacity || len(c.slots) > 10 {
			t.Fatalf("%d bytes in %d frames", c.used, len(c.slots))
		}
	}
	if c.get(key(99)) == nil || c.get(key(0)) != nil {
		t.Error("the newest is missing, or the oldest is still there")
	}
	if c.get(cacheKey{log: l, index: 99, term: 2}) != nil || c.get(cacheKey{log: other, index: 99, term: 1}) != nil {
		t.Error("found under another term, or in another log")
	}
	c.remove([]cacheKey{key(99), key(5)})
	if c.get(key(99)) != nil || c.get(key(98)) == nil {
		t.Error("cut frame found, or another missing")
	}
	buffer := make([]byte, 2000)
	c.put(key(200), buffer[:100], len(buffer))
	c.put(key(201), buffer[100:1200], len(buffer))
	buffer[0], buffer[100] = 1, 1
	if got := c.get(key(200)); got == nil || got[0] != 0 {
		t.Error("a small frame was not copied out of its buffer")
	}
	if got := c.get(key(201)); got == nil || got[0] != 1 {
		t.Error("a large frame was copied")
	}
	c.put(key(300), make([]byte, 5000), 0)
	if c.get(key(300)) != nil {
		t.Error("a frame that would empty the cache was taken")
	}
	c.put(cacheKey{log: other, index: 1, term: 1}, make([]byte, 10), 0)
	c.forget(l)
	if len(c.slots) != 1 || c.get(cacheKey{log: other, index: 1, term: 1}) == nil {
		t.Errorf("%d frames after the log was forgotten", len(c.slots))
	}
	var none *TailCache
	none.put(key(1), nil, 0)
	none.remove(nil)
	none.forget(l)
	if none.get(key(1)) != nil {
		t.Error("found in no cache")
	}
}
