package durability

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/segment"
)

// TrimAsked notes that somebody asks to trim a partition to an offset: from now on
// replicas may begin there. Without it none may lack its first record.
func (l *Ledger) TrimAsked(partition int32, start int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trims = grown(l.trims, int64(partition))
	l.trims[partition] = max(l.trims[partition], start)
}

// trimAsked is the largest offset to which anybody asked to trim a partition.
func (l *Ledger) trimAsked(partition int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(partition) >= len(l.trims) {
		return 0
	}
	return l.trims[partition]
}

// begin is where a replica begins. It notes a fault if that is above what anybody
// asked for.
func (l *Ledger) begin(r Replica) (int64, error) {
	asked := l.trimAsked(r.Partition)
	begin, err := r.begin(asked > 0)
	if err == nil && begin > asked {
		l.faults.Add(NL, "%s begins at offset %d, trimmed to %d at most", r, begin, asked)
	}
	return begin, err
}

// begin is the offset at which a replica's files begin, 0 until it was trimmed. Of a
// trimmed one, a power cut may have left any of the files that were removed: it begins
// behind the last gap, for nothing before that is listed.
func (r Replica) begin(trimmed bool) (begin int64, err error) {
	bases, err := r.segments()
	if err != nil || len(bases) == 0 {
		return 0, err
	}
	begin = bases[0]
	if !trimmed {
		return begin, nil
	}
	end := begin
	for _, base := range bases {
		if base != end {
			begin, end = base, base
		}
		err := r.walkFile(segmentName(base), func(h segment.Header, _ []byte) error {
			end = int64(h.NextOffset())
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("%s: segment %d: %w", r, base, err)
		}
	}
	return begin, nil
}

// segments are the base offsets of a replica's files, in order.
func (r Replica) segments() (bases []int64, err error) {
	names, err := r.FS.List(r.Dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		if !ok {
			continue
		}
		base, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || segmentName(base) != name {
			return nil, fmt.Errorf("%s: segment %s has no offset for a name", r, name)
		}
		bases = append(bases, base)
	}
	slices.Sort(bases)
	return bases, nil
}

// segmentName is the name of a segment's file.
func segmentName(base int64) string { return fmt.Sprintf("%020d.log", base) }
