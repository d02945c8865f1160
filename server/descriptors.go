package server

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/replication/metadata"
)

const (
	// replicaFiles is how many descriptors a replica holds: the .log and .idx of the
	// segment that it writes.
	replicaFiles = 2
	// sealedFiles is the same of a sealed segment that is open.
	sealedFiles = 2
	// reservedFiles is how many descriptors replicas leave to connections, sealed
	// segments, checkpoints and the metadata; half of a limit that is lower than
	// twice this.
	reservedFiles = 4096
	// maxFileLimit stands for limits that are no limit, so that sums stay in range.
	maxFileLimit = 1 << 30
)

// divideFiles says how many replicas a node may hold whose process may open limit
// files (RLIMIT_NOFILE; 0: not limited), and how many sealed segments it may keep
// open: half of what is reserved. A node without descriptors accepts no connection,
// not even one that would delete what is too much.
func divideFiles(limit int64) (replicas, sealed int) {
	if limit <= 0 || limit > maxFileLimit {
		limit = maxFileLimit
	}
	reserved := min(reservedFiles, limit/2)
	return int((limit - reserved) / replicaFiles), int(reserved / (2 * sealedFiles))
}

// checkFiles refuses a topic that would give a node more replicas than it has
// descriptors for. A broker knows its own limit only, and takes it for everybody's:
// the nodes of a cluster are set up alike.
func (n *node) checkFiles(view *metadata.View, placed [][]metadata.NodeID) *failure {
	most, _ := divideFiles(n.fileLimit)
	held, added := map[metadata.NodeID]int{}, map[metadata.NodeID]int{}
	for _, nodes := range placed {
		for _, id := range nodes {
			added[id]++
		}
	}
	for t := range view.Topics() {
		for i := range t.Partitions {
			for _, r := range t.Partitions[i].Replicas {
				held[r.Node]++
			}
		}
	}
	for b := range view.Brokers() { // in order, so that the message is the same each time
		if add := added[b.Node]; add > 0 && held[b.Node]+add > most {
			return fail(kerr.InvalidPartitions, fmt.Sprintf(
				"broker %d would hold %d replicas (%d now); %d are possible with its limit of %d open files: raise it (ulimit -n, LimitNOFILE= of systemd) and restart the brokers, or create fewer partitions",
				b.Node, held[b.Node]+add, held[b.Node], most, n.fileLimit))
		}
	}
	return nil
}
