package log

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestJudge: one row for each rule about sequence numbers. The state is what the
// batches before left, at the offsets 0, 1, ... of their records.
func TestJudge(t *testing.T) {
	type seq struct {
		epoch   int16
		first   int32
		records int32
	}
	many := []seq{{0, 0, 1}, {0, 1, 2}, {0, 3, 1}, {0, 4, 1}, {0, 5, 1}, {0, 6, 1}, {0, 7, 3}} // next is 10, remembered from 3 on
	for name, c := range map[string]struct {
		before []seq
		batch  seq
		want   Verdict
	}{
		"unknown producer, first":               {nil, seq{0, 0, 1}, Verdict{Accepted, -1}},
		"unknown producer, any sequence":        {nil, seq{3, 77, 1}, Verdict{Accepted, -1}},
		"next":                                  {many, seq{0, 10, 4}, Verdict{Accepted, -1}},
		"gap":                                   {many, seq{0, 11, 1}, Verdict{OutOfOrder, -1}},
		"duplicate of the last":                 {many, seq{0, 7, 3}, Verdict{Duplicate, 7}},
		"duplicate of the oldest remembered":    {many, seq{0, 3, 1}, Verdict{Duplicate, 3}},
		"duplicate too old":                     {many, seq{0, 1, 2}, Verdict{DuplicateTooOld, -1}},
		"duplicate of the very first":           {many, seq{0, 0, 1}, Verdict{DuplicateTooOld, -1}},
		"same sequence, other count":            {many, seq{0, 7, 2}, Verdict{OutOfOrder, -1}},
		"across the oldest remembered":          {many, seq{0, 2, 2}, Verdict{OutOfOrder, -1}},
		"below what was ever seen":              {[]seq{{0, 100, 1}}, seq{0, 99, 1}, Verdict{OutOfOrder, -1}},
		"older epoch":                           {[]seq{{5, 0, 1}}, seq{4, 1, 1}, Verdict{Fenced, -1}},
		"older epoch, known sequence":           {[]seq{{5, 0, 1}}, seq{4, 0, 1}, Verdict{Fenced, -1}},
		"new epoch from 0":                      {many, seq{1, 0, 1}, Verdict{Accepted, -1}},
		"new epoch goes on":                     {many, seq{1, 10, 1}, Verdict{OutOfOrder, -1}},
		"new epoch forgets duplicates":          {[]seq{{0, 0, 1}, {1, 0, 2}}, seq{1, 0, 1}, Verdict{OutOfOrder, -1}},
		"marker of a new epoch, then 0":         {[]seq{{0, 0, 1}, {1, -1, 1}}, seq{1, 0, 1}, Verdict{Accepted, -1}},
		"marker of a new epoch, then 1":         {[]seq{{0, 0, 1}, {1, -1, 1}}, seq{1, 1, 1}, Verdict{OutOfOrder, -1}},
		"marker of the same epoch":              {[]seq{{0, 0, 1}, {0, -1, 1}}, seq{0, 1, 1}, Verdict{Accepted, -1}},
		"marker of an older epoch":              {[]seq{{2, 0, 1}}, seq{1, -1, 1}, Verdict{Fenced, -1}},
		"wraps after the greatest":              {[]seq{{0, math.MaxInt32 - 1, 2}}, seq{0, 0, 1}, Verdict{Accepted, -1}},
		"wraps within a batch":                  {[]seq{{0, math.MaxInt32 - 1, 4}}, seq{0, 2, 1}, Verdict{Accepted, -1}},
		"duplicate that wraps":                  {[]seq{{0, math.MaxInt32 - 1, 4}, {0, 2, 1}}, seq{0, math.MaxInt32 - 1, 4}, Verdict{Duplicate, 0}},
		"gap over the wrap":                     {[]seq{{0, math.MaxInt32 - 1, 2}}, seq{0, 1, 1}, Verdict{OutOfOrder, -1}},
		"far ahead is no duplicate of long ago": {many, seq{0, 1 << 30, 1}, Verdict{OutOfOrder, -1}},
	} {
		t.Run(name, func(t *testing.T) {
			table := newProducerTable(10, nil)
			next := segment.Offset(0)
			for _, b := range c.before {
				table.add(batch{id: 7, epoch: b.epoch, first: b.first, records: b.records, base: next})
				next += segment.Offset(b.records)
			}
			b := batch{id: 7, epoch: c.batch.epoch, first: c.batch.first, records: c.batch.records}
			if got := table.judge(b); got != c.want {
				t.Errorf("at the end of the log: %+v, must be %+v", got, c.want)
			}
			next = 0
			for _, b := range c.before {
				table.apply(batch{id: 7, epoch: b.epoch, first: b.first, records: b.records, base: next})
				next += segment.Offset(b.records)
			}
			if len(table.tail) != 0 {
				t.Errorf("%d producers at the end of the log after all was applied", len(table.tail))
			}
			if got := newProducerTable(10, table.snapshot()).judge(b); got != c.want {
				t.Errorf("applied, from a checkpoint: %+v, must be %+v", got, c.want)
			}
		})
	}
}

// TestProducersAreCapped: the producers that wrote last are remembered.
func TestProducersAreCapped(t *testing.T) {
	table := newProducerTable(3, nil)
	for _, id := range []int64{1, 2, 3, 1, 4} {
		table.apply(batch{id: id, first: 0, records: 1})
	}
	var ids []int64
	for _, s := range table.snapshot() {
		ids = append(ids, s.ID)
	}
	if diff := cmp.Diff([]int64{3, 1, 4}, ids); diff != "" {
		t.Error(diff)
	}
}

// TestJudgeInAppend judges against entries staged in the same append, follows
// aborts and cuts, and keeps the state over rolls and starts.
func TestJudgeInAppend(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	verdict := func(a *Append, d draft) Verdict {
		h, err := segment.DecodeHeader(d.frame)
		must(t, err)
		return a.Judge(h)
	}
	first, second := producerBatch(1, 5, 0, 0, 2), producerBatch(1, 5, 0, 2, 3)

	a := l.Begin()
	if _, err := stage(a, []draft{first}); err != nil {
		t.Fatal(err)
	}
	if v := verdict(a, first); v != (Verdict{Duplicate, 0}) {
		t.Errorf("duplicate within the append: %+v", v)
	}
	if v := verdict(a, second); v.Outcome != Accepted {
		t.Errorf("next within the append: %+v", v)
	}
	a.Abort()
	a = l.Begin()
	if v := verdict(a, first); v.Outcome != Accepted {
		t.Errorf("after the abort: %+v", v)
	}
	a.Abort()

	mustAppend(t, l, first)
	if _, err := l.Apply(1); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, second)
	if v := verdict(l.Begin(), second); v != (Verdict{Duplicate, 2}) {
		t.Errorf("duplicate of an unapplied entry: %+v", v)
	}
	must(t, l.CutFrom(2))
	if v := verdict(l.Begin(), second); v.Outcome != Accepted {
		t.Errorf("after the cut: %+v", v)
	}
	if v := verdict(l.Begin(), first); v != (Verdict{Duplicate, 0}) {
		t.Errorf("applied entry after the cut: %+v", v)
	}
	mustAppend(t, l, second, batchOfRecords(1, 1, 3000, 1, 0), batchOfRecords(1, 1, 3000, 2, 0), batchOfRecords(1, 1, 3000, 3, 0))
	for range 2 { // once after a crash with everything unapplied, once after a clean stop
		disk.Crash(crashfs.CrashOptions{Keep: crashfs.KeepNothing})
		_ = l.Close()
		l = open(t, smallOptions(disk.Mount()))
		if v := verdict(l.Begin(), second); v != (Verdict{Duplicate, 2}) {
			t.Errorf("after a start: %+v", v)
		}
		if _, err := l.Apply(l.LastIndex()); err != nil {
			t.Fatal(err)
		}
		must(t, l.WriteCheckpoint())
	}
	want := []ProducerInfo{{ID: 5, Epoch: 0, LastSequence: 4, LastTimestamp: 1000}}
	if diff := cmp.Diff(want, l.Producers()); diff != "" {
		t.Error(diff)
	}
	// The header of the second segment has the state as of its start.
	h, err := segment.ReadHeader(disk, testDir, l.parts[1].base)
	must(t, err)
	if len(h.Producers) != 1 || h.Producers[0].Count != 2 {
		t.Errorf("producers in the header: %+v", h.Producers)
	}
	must(t, l.Close())
}
