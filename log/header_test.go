package log

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestSegmentHeaders: each segment's header has the state as of its start, so that
// everything before it can go: the term before, the terms, the configuration; and,
// once sealed, what its frames say.
func TestSegmentHeaders(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	defer l.Close()
	var all []stored
	for i := range 40 {
		term := segment.Term(1 + (i+5)/9)
		drafts := []draft{batchOfRecords(term, 2, 900, uint64(i), int64(i))}
		if i%9 == 4 { // also in the append that rolls
			drafts = []draft{internalFrame(term, segment.KindConfiguration, string(rune('a'+i))), drafts[0], batchOfRecords(term, 1, 7000, uint64(i)+100, 1)}
		}
		all = append(all, mustAppend(t, l, drafts...)...)
		if i == 20 {
			if _, err := l.Apply(15); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n, p := range l.parts {
		h, err := segment.ReadHeader(disk, testDir, p.base)
		must(t, err)
		want := &segment.FileHeader{
			Cluster: testIdentity.Cluster, TopicID: testIdentity.TopicID, Partition: testIdentity.Partition,
			BaseIndex: h.BaseIndex, RoundLimit: h.RoundLimit, Seal: h.Seal,
		}
		for i, s := range all[:h.BaseIndex-1] {
			e := entry{term: s.term, base: s.base}
			want.BaseOffset, want.PrevTerm = s.next, s.term
			want.Terms = startTerm(want.Terms, &e, segment.Index(i+1))
			if s.kind == segment.KindConfiguration {
				_, content, _ := segment.DecodeInternal(s.frame)
				want.Configuration, want.ConfigurationIndex = content, segment.Index(i+1)
			}
		}
		if diff := cmp.Diff(want, h); diff != "" {
			t.Errorf("segment %d: %s", n, diff)
		}
		if (h.Seal == nil) != (n == len(l.parts)-1) {
			t.Errorf("segment %d of %d: seal %v", n, len(l.parts), h.Seal)
		}
		if h.Seal != nil {
			last := all[h.Seal.LastIndex-1]
			if h.Seal.NextOffset != last.next || h.Seal.LastTerm != last.term || h.Seal.NextOffset != l.parts[n+1].base {
				t.Errorf("segment %d: seal %+v, its last entry %+v", n, h.Seal, last)
			}
		}
	}
	if len(l.parts) < 5 {
		t.Errorf("%d segments", len(l.parts))
	}
}
