package log

import (
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// TestAppendReadReopen goes once through everything: entries of all kinds, several
// segments, reading back, closing and opening.
func TestAppendReadReopen(t *testing.T) {
	disk := crashfs.New(1)
	l := create(t, smallOptions(disk.Mount()))
	var all []stored
	all = append(all, mustAppend(t, l, internalFrame(1, segment.KindConfiguration, "three voters"))...)
	all = append(all, mustAppend(t, l, internalFrame(2, segment.KindNoop, ""))...)
	for i := range 60 {
		all = append(all, mustAppend(t, l,
			batchOfRecords(2, 3, 100, uint64(i), int64(i)), batchOfRecords(2, 1, 700, uint64(i)+1000, int64(i)))...)
		if i == 30 {
			void := draft{term: 2, kind: segment.KindVoid, frame: segment.EncodeVoid(0, segment.Void{Code: segment.VoidDuplicate, Offset: 7})}
			all = append(all, mustAppend(t, l, void)...)
		}
	}
	if n := len(names(t, disk, ".log")); n < 5 {
		t.Fatalf("%d segments", n)
	}
	if _, err := l.Apply(l.LastIndex() - 1); err != nil {
		t.Fatal(err)
	}
	must(t, checkInvariants(l, all))
	configuration, err := l.Payload(1)
	must(t, err)
	if string(configuration) != "three voters" {
		t.Errorf("configuration %q", configuration)
	}
	must(t, l.Close())

	o := smallOptions(disk.Mount())
	o.CleanStop = true
	l = open(t, o)
	defer l.Close()
	must(t, checkInvariants(l, all))
	if l.Recovery() != (Recovery{}) {
		t.Errorf("recovery after a clean stop: %+v", l.Recovery())
	}
	if c := l.Checkpoint(); c.Index != l.LastIndex()-1 || string(c.Configuration) != "three voters" || c.ConfigurationIndex != 1 {
		t.Errorf("checkpoint %+v", c)
	}
}
