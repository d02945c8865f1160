package replication

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestNothingIsAppliedBehindAnUnknownEntry: what an entry of a newer version did to
// the state is not known here, so nothing behind it may be applied either, and no
// client be told that it was.
func TestNothingIsAppliedBehindAnUnknownEntry(t *testing.T) {
	store := storeOf(t, crashfs.New(1))
	unknown := segment.EncodeInternal(segment.KindHorizon, 1, make([]byte, 8))
	segment.Stamp(unknown, 1, 1)
	must(t, store.StoreLogs([]*raft.Log{command(2, 1, 0, 10), {Index: 3, Term: 1, Type: raft.LogCommand, Data: unknown}, command(4, 1, 1, 11)}))
	var stops []error
	f := &fsm{log: store.log, moved: func() {}, stop: func(err error) { stops = append(stops, err) }}
	if a := f.Apply(&raft.Log{Index: 2}).(applied); a.err != nil {
		t.Fatal(a.err)
	}
	for _, index := range []uint64{3, 2, 4} {
		if a := f.ApplyBatch([]*raft.Log{{Index: index}})[0].(applied); a.err == nil {
			t.Errorf("entry %d was applied behind one that is not known", index)
		}
	}
	if len(stops) != 1 || !errors.Is(stops[0], log.ErrUnknownKind) {
		t.Errorf("the replica was stopped for %v, want once for an unknown entry", stops)
	}
	if hw := store.log.HighWatermark(); hw != 1 {
		t.Errorf("the high watermark is %d, want 1", hw)
	}
}
