package durability

import (
	"fmt"
	"math"
)

// Open begins the stream of a producer in a partition, for a load that offers its
// batches to replicas itself. ordered says that the producer is idempotent.
func (l *Ledger) Open(producer int, partition int32, ordered bool) {
	l.open(producer, partition, ordered)
}

// Broken notes a promise that was broken, for a load that sees one itself.
func (l *Ledger) Broken(m Mark, format string, args ...any) { l.faults.Add(m, format, args...) }

// Value is the record of an event of a run, size bytes long, at least MinValue.
func (e Event) Value(run uint32, size int) []byte { return e.encode(run, size) }

// EventOf reads a record of a run back.
func EventOf(run uint32, value []byte) (Event, error) {
	e, err := decode(run, value)
	if err != nil {
		return e, fmt.Errorf("%w: %.40q", err, value)
	}
	return e, nil
}

// Walk passes every event that a replica's files hold, committed or not.
func (r Replica) Walk(run uint32, visit func(offset int64, e Event)) error {
	begin, err := r.begin(true)
	if err == nil {
		_, err = r.events(run, begin, math.MaxInt64, visit)
	}
	return err
}
