package durability

import (
	"hash/maphash"
	"math"
	"strconv"

	"github.com/millrace/millrace/segment"
)

// contentSeed makes the sums of one process comparable.
var contentSeed = maphash.MakeSeed()

// maxCheckFaults bounds how many faults one check of a replica looks for: a log
// that lost its beginning would give one for each event.
const maxCheckFaults = 100

// check is one walk over a replica.
type check struct {
	ledger  *Ledger
	replica Replica
	limit   int64
	next    map[streamKey]int64          // of ordered streams: the sequence after the last
	seen    map[streamKey]map[int64]bool // of the others
	faults  int
	content Content
}

// Check reads a replica up to an offset (the high watermark of a ready leader: what
// is above was not promised) and holds it against the ledger: nothing acknowledged
// is missing, nothing refused is there, nothing is there twice or out of order,
// and what consumers read is what is stored. An offset that the replica does not
// reach is a violation, too, and a beginning above what was asked to be trimmed.
func (l *Ledger) Check(r Replica, limit int64) *Content {
	c := &check{
		ledger: l, replica: r, limit: limit,
		next: map[streamKey]int64{}, seen: map[streamKey]map[int64]bool{}, content: Content{replica: r},
	}
	begin, err := l.begin(r)
	if err != nil {
		l.faults.Add(OI, "%v", err)
		return &c.content
	}
	c.content.Begin = begin
	end, err := r.walk(begin, limit, func(h segment.Header, frame []byte) error {
		c.content.add(contentSeed, h, frame)
		l.mu.Lock()
		defer l.mu.Unlock()
		return frameEvents(l.run, frame, c.event)
	})
	c.content.End = end
	if err != nil {
		l.faults.Add(OI, "%v", err)
		return &c.content
	}
	if end < limit {
		l.faults.Add(NL, "%s ends at offset %d, the high watermark is %d", r, end, limit)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, s := range l.streams {
		if key.partition == r.Partition {
			c.missing(key, s, c.next[key], int64(len(s.outcomes)))
		}
	}
	return &c.content
}

// event judges an event of the log; the ledger's lock is held.
func (c *check) event(offset int64, e Event) {
	l := c.ledger
	c.content.Records++
	if e.Partition != c.replica.Partition {
		c.fault(OI, "%s holds %s at offset %d", c.replica, e, offset)
		return
	}
	l.judge(e, offset, c.replica.String())
	if id := l.reading(e.Partition, offset); id != 0 && id != e.id() {
		c.fault(OI, "%s holds %s at offset %d, where a consumer read %s", c.replica, e, offset, eventOf(id))
	}
	key := streamKey{e.Producer, e.Partition}
	s := l.streams[key]
	switch {
	case s == nil: // judge has reported it
	case s.ordered:
		if next := c.next[key]; e.Sequence < next {
			c.fault(ND, "%s holds %s at offset %d after number %d of the same producer", c.replica, e, offset, next-1)
			return
		}
		c.missing(key, s, c.next[key], e.Sequence)
		c.next[key] = e.Sequence + 1
	default:
		seen := c.seen[key]
		if seen == nil {
			seen = map[int64]bool{}
			c.seen[key] = seen
		}
		if seen[e.Sequence] {
			c.fault(ND, "%s holds %s twice, again at offset %d", c.replica, e, offset)
		}
		seen[e.Sequence] = true
	}
}

// missing looks for acknowledged events among those that the log has passed over;
// the ledger's lock is held.
func (c *check) missing(key streamKey, s *stream, from, to int64) {
	for sequence := from; sequence < min(to, int64(len(s.outcomes))); sequence++ {
		o := s.outcomes[sequence]
		if o == untold || o == refused || int64(o-1) < c.content.Begin || int64(o-1) >= c.limit || c.seen[key][sequence] {
			continue
		}
		c.fault(NL, "%s lacks %s, which was acknowledged at %s", c.replica, Event{key.producer, key.partition, sequence}, told(o))
	}
}

func (c *check) fault(m Mark, format string, args ...any) {
	if c.faults++; c.faults <= maxCheckFaults {
		c.ledger.faults.Add(m, format, args...)
	}
}

// CheckAll checks all replicas of a partition and compares them with one another.
func (l *Ledger) CheckAll(replicas []Replica, limit int64) []*Content {
	var contents []*Content
	for _, r := range replicas {
		c := l.Check(r, limit)
		if len(contents) > 0 {
			if differs := contents[0].Differs(c); differs != "" {
				l.faults.Add(OI, "%s", differs)
			}
		}
		contents = append(contents, c)
	}
	return contents
}

// CheckMajority holds the disks of all of a partition's replicas, as a power cut
// of every node left them, against the ledger: each acknowledged event must be on
// a majority of them, unless it was trimmed there.
func (l *Ledger) CheckMajority(partition int32, replicas []Replica, voters int) {
	held, begins := make([][]uint64, len(replicas)), make([]int64, len(replicas))
	for i, r := range replicas {
		var err error
		if begins[i], err = l.begin(r); err != nil {
			l.faults.Add(OI, "after the power cut: %v", err)
			continue
		}
		_, err = r.events(l.run, begins[i], math.MaxInt64, func(offset int64, e Event) {
			held[i] = grown(held[i], offset)
			held[i][offset] = e.id()
		})
		if err != nil {
			l.faults.Add(OI, "after the power cut: %v", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	faults := 0
	for key, s := range l.streams {
		if key.partition != partition {
			continue
		}
		for sequence, o := range s.outcomes {
			if o == untold || o == refused {
				continue
			}
			e, copies := Event{key.producer, key.partition, int64(sequence)}, 0
			for i, ids := range held {
				if int64(o-1) < begins[i] || o-1 < uint64(len(ids)) && ids[o-1] == e.id() {
					copies++
				}
			}
			if copies > voters/2 {
				continue
			}
			if faults++; faults <= maxCheckFaults {
				l.faults.Add(NL, "after the power cut %d of %d disks hold %s, acknowledged at %s", copies, voters, e, told(o))
			}
		}
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
