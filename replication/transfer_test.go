package replication

import (
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// TestTransferToNobodyIsRefusedAtOnce: a single node must not take longer to stop
// for each partition that it cannot hand over.
func TestTransferToNobodyIsRefusedAtOnce(t *testing.T) {
	g := newTrio(t)
	p := g.leader().partition
	down := func(metadata.NodeID) bool { return false }
	quickest := time.Hour
	for range 5 { // the machine may be busy once
		began := time.Now()
		if err := p.Transfer(t.Context(), NoLeader, down); !errors.Is(err, ErrNoSuccessor) {
			t.Fatal(err)
		}
		quickest = min(quickest, time.Since(began))
	}
	if quickest >= transferCatchUp {
		t.Errorf("it takes %v to find nobody", quickest)
	}
}
