package segment

// RememberedBatches is how many batches of an idempotent producer are remembered
// to recognise duplicates: Kafka's producers keep at most five in flight.
const RememberedBatches = 5

// ProducerState is what a log remembers of an idempotent producer (KIP-98).
//
//	producer id     8
//	epoch           2
//	last timestamp  8   milliseconds
//	accepted        8   records accepted in this epoch
//	batches         1   at most 5, oldest first, each
//	  first sequence  4
//	  count           4
//	  base offset     8
type ProducerState struct {
	// ID is the producer id, not negative.
	ID int64
	// Epoch is the newest epoch seen.
	Epoch int16
	// LastTimestamp is the largest timestamp of its last batch, in milliseconds.
	LastTimestamp int64
	// Accepted is how many records of this epoch were accepted since the state
	// was made: sequence numbers that far back are known to be in the log.
	Accepted int64
	// Count is how many of Batches are in use.
	Count uint8
	// Batches are the last batches of this epoch, oldest first.
	Batches [RememberedBatches]BatchSpan
}

// BatchSpan is one remembered batch.
type BatchSpan struct {
	// First is the sequence number of its first record.
	First int32
	// Records is how many records it has.
	Records int32
	// Base is the offset of its first record.
	Base Offset
}

const (
	producerMinSize = 8 + 2 + 8 + 8 + 1
	batchSpanSize   = 4 + 4 + 8
)

// EncodeProducers appends a list of producers.
func EncodeProducers(e *Encoder, producers []ProducerState) {
	e.Uint32(uint32(len(producers)))
	for i := range producers {
		p := &producers[i]
		e.Uint64(uint64(p.ID))
		e.Uint16(uint16(p.Epoch))
		e.Uint64(uint64(p.LastTimestamp))
		e.Uint64(uint64(p.Accepted))
		e.Uint8(p.Count)
		for _, b := range p.Batches[:p.Count] {
			e.Uint32(uint32(b.First))
			e.Uint32(uint32(b.Records))
			e.Uint64(uint64(b.Base))
		}
	}
}

// DecodeProducers takes a list of producers.
func DecodeProducers(d *Decoder) []ProducerState {
	n := d.Count(producerMinSize)
	if n == 0 {
		return nil
	}
	producers := make([]ProducerState, n)
	for i := range producers {
		p := &producers[i]
		p.ID, p.Epoch = int64(d.Uint64()), int16(d.Uint16())
		p.LastTimestamp, p.Accepted = int64(d.Uint64()), int64(d.Uint64())
		p.Count = d.Uint8()
		if p.ID < 0 || p.Accepted < 0 || p.Count > RememberedBatches {
			d.Fail("producer %d with %d records in %d batches", p.ID, p.Accepted, p.Count)
		}
		if d.Err() != nil {
			return nil
		}
		for j := range p.Count {
			b := BatchSpan{First: int32(d.Uint32()), Records: int32(d.Uint32()), Base: d.Offset()}
			if b.First < 0 || b.Records <= 0 {
				d.Fail("batch of %d records at sequence %d", b.Records, b.First)
			}
			p.Batches[j] = b
		}
	}
	return producers
}
