package groups

import (
	"math"
	"unicode/utf8"
)

// PartitionFor is the partition of __consumer_offsets, out of n, that holds a
// group: Kafka's abs(String.hashCode(group)) % n. Java hashes UTF-16 code units,
// and its decoder turns a byte that is no UTF-8 into U+FFFD, as range does. Tools
// that read the topic by themselves count on it. It returns 0 when n < 1.
func PartitionFor(group string, n int32) int32 {
	if n < 1 {
		return 0
	}
	h := javaHash(group)
	if h == math.MinInt32 { // its absolute value is no int32; Kafka takes 0
		return 0
	}
	return max(h, -h) % n
}

// javaHash is java.lang.String.hashCode.
func javaHash(s string) int32 {
	var h int32
	for _, r := range s {
		if r > 0xffff && r <= utf8.MaxRune {
			r -= 0x10000
			h = 31*h + 0xd800 + r>>10
			h = 31*h + 0xdc00 + r&0x3ff
			continue
		}
		h = 31*h + r
	}
	return h
}
