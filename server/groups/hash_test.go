package groups

import "testing"

// TestPartitionFor holds the hash against values of java.lang.String.hashCode.
func TestPartitionFor(t *testing.T) {
	tests := []struct {
		group string
		hash  int32
		of50  int32
	}{
		{"", 0, 0},
		{"a", 97, 47},
		{"hello", 99162322, 22},
		{"polygenelubricants", -2147483648, 0}, // the smallest int32 has no absolute value
		{"Aa", 2112, 12},
		{"BB", 2112, 12},
		{"\u00e9", 233, 33},
		{"\U0001F600", 1772899, 49}, // two UTF-16 code units: 0xd83d*31 + 0xde00
		{"\xff", 0xfffd, 33},        // no UTF-8: U+FFFD, as Java decodes it
	}
	for _, tt := range tests {
		if got := javaHash(tt.group); got != tt.hash {
			t.Errorf("javaHash(%q) = %d, want %d", tt.group, got, tt.hash)
		}
		if got := PartitionFor(tt.group, 50); got != tt.of50 {
			t.Errorf("PartitionFor(%q, 50) = %d, want %d", tt.group, got, tt.of50)
		}
	}
	for _, n := range []int32{0, -1} {
		if got := PartitionFor("a", n); got != 0 {
			t.Errorf("PartitionFor(a, %d) = %d", n, got)
		}
	}
}
