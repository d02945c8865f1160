package durability

import (
	"fmt"

	"github.com/millrace/millrace/segment/vfs"
)

// CheckFolders reads the segment files of a topic's partitions in the data folders
// of stopped brokers, by node, and holds them against the ledger and one another, up
// to the log ends. Each partition must have that many replicas. It returns how much
// was read.
func (l *Ledger) CheckFolders(fsys vfs.FS, folders map[int]string, topic string, replicas int, ends []int64) (records, bytes int64, err error) {
	found := make([][]Replica, len(ends))
	for node, folder := range folders {
		rs, err := FindReplicas(fsys, folder, node, topic)
		if err != nil {
			return 0, 0, err
		}
		for _, r := range rs {
			if int(r.Partition) >= len(found) {
				return 0, 0, fmt.Errorf("%s was never made", r)
			}
			if r.WasDoubtful() {
				l.faults.Add(CE, "%s met an end that it could not judge, without a power cut", r)
			}
			found[r.Partition] = append(found[r.Partition], r)
		}
	}
	for p, rs := range found {
		if len(rs) != replicas {
			return 0, 0, fmt.Errorf("partition %d has %d replicas on disk, not %d", p, len(rs), replicas)
		}
		for _, c := range l.CheckAll(rs, ends[p]) {
			records, bytes = records+c.Records, bytes+c.Bytes
		}
	}
	return records, bytes, nil
}
