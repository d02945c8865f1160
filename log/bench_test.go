package log

import (
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// BenchmarkAppend commits rounds of batches on the machine's file system.
func BenchmarkAppend(b *testing.B) {
	for name, c := range map[string]struct{ entries, size int }{"64x1KiB": {64, 1 << 10}, "8x64KiB": {8, 64 << 10}, "1x1KiB": {1, 1 << 10}} {
		b.Run(name, func(b *testing.B) {
			l := create(b, Options{FS: vfs.OS(), Dir: filepath.Join(b.TempDir(), "a", "b", "c"), Identity: testIdentity, Cache: NewTailCache(8 << 20)})
			defer l.Close()
			frames := make([][]byte, c.entries)
			for i := range frames {
				frames[i] = batchOfRecords(1, 1, c.size, uint64(i), 0).frame
			}
			b.SetBytes(int64(c.entries * c.size))
			b.ReportAllocs()
			for b.Loop() {
				a := l.Begin()
				for _, frame := range frames {
					segment.Stamp(frame, a.NextOffset(), 1)
					must(b, a.Stage(Entry{Index: a.NextIndex(), Term: 1, Kind: segment.KindRecords, Frame: frame}))
				}
				must(b, a.Commit())
				_, err := l.Apply(l.LastIndex())
				must(b, err)
			}
		})
	}
}
