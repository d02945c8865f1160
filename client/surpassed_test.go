package client

import "testing"

// A majority that is in force is no difference from the smaller number that was asked
// for; anything else is.
func TestSurpassed(t *testing.T) {
	tests := []struct {
		key, want, inForce string
		surpassed          bool
	}{
		{"min.insync.replicas", "1", "2", true},
		{"min.insync.replicas", "3", "2", false},
		{"min.insync.replicas", "one", "2", false},
		{"min.insync.replicas", "1", "", false},
		{"retention.ms", "1", "2", false},
	}
	for _, tt := range tests {
		if got := surpassed(tt.key, tt.want, tt.inForce); got != tt.surpassed {
			t.Errorf("%s=%s with %q in force: %v", tt.key, tt.want, tt.inForce, got)
		}
	}
}
