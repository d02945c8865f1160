package segment

import "fmt"

// FileHeader is a segment's header file (.hdr): all that is needed to begin
// reading at this segment when everything before it is gone. It is written before
// the segment's first frame, written again when the round limit rises, and written
// a last time, with its seal, when the segment is closed.
//
// Body of format FormatHeader1:
//
//	cluster           4+n   text
//	topic id          16
//	partition         4
//	base index        8     Raft index of the first frame
//	base offset       8     offset of the first record
//	previous term     8     term of the entry before the first frame
//	round limit       8     most bytes of one write round
//	configuration     4+n   raft's, as of the segment's start, in raft's encoding
//	its index         8
//	terms             4+n x 24   term, first index, first offset; all terms of the
//	                        log that began before this segment
//	producers         4+n x ...  see ProducerState; as of the segment's start
//	sealed            1     0 or 1; 1 is followed by
//	  length          8     bytes of frames, and of the file
//	  last index      8
//	  last term       8
//	  next offset     8     base offset of the segment after this one
//	  max timestamp   8     largest of the segment, -1 without records
//	  first append    8     wall clock in milliseconds
//	  last append     8
//	  index entries   4     in the .idx
//	  chain           4     checksum chained over all frames, see Cursor
//	  aborted         4+n x 24   aborted transactions that end in this segment
type FileHeader struct {
	// Cluster is the cluster id, empty in a log that began before there was one.
	Cluster string
	// TopicID is the topic's identity.
	TopicID TopicID
	// Partition is the partition's number.
	Partition int32
	// BaseIndex is the Raft index of the first frame, at least 1.
	BaseIndex Index
	// BaseOffset is the offset of the first record; it names the files.
	BaseOffset Offset
	// PrevTerm is the term of the entry before the first frame, 0 without one.
	PrevTerm Term
	// RoundLimit is the most bytes that are written between two syncs. It is
	// raised, durably, before a larger round is written, to less than four times
	// its size: recovery may take only the last that many bytes for unfinished, and
	// the fewer these are, the fewer of them were synced.
	RoundLimit int64
	// Configuration is raft's configuration as of the segment's start, in raft's
	// encoding; empty before there was one.
	Configuration []byte
	// ConfigurationIndex is the index of the entry that made it.
	ConfigurationIndex Index
	// Terms are the terms that began before this segment, ascending.
	Terms []TermStart
	// Producers are the idempotent producers as of the segment's start, the one
	// that wrote last at the end.
	Producers []ProducerState
	// Seal is nil until the segment is closed.
	Seal *Seal
}

// MinRoundLimit is the round limit, in bytes, of a log's first segment. Later ones
// begin with half of what the one before them had, at least this.
const MinRoundLimit = 4 << 10

// TermStart says where a term began.
type TermStart struct {
	// Term is the Raft term.
	Term Term
	// Index is that of its first entry.
	Index Index
	// Offset is that of its first record, or of the next record where it has none.
	Offset Offset
}

// Seal is what a header file says about a closed segment.
type Seal struct {
	// Length is the size of all frames, and of the file, in bytes.
	Length int64
	// LastIndex is the index of the last frame.
	LastIndex Index
	// LastTerm is the term of the last frame.
	LastTerm Term
	// NextOffset is the offset after the last record.
	NextOffset Offset
	// MaxTimestamp is the largest record timestamp in milliseconds, -1 without.
	MaxTimestamp int64
	// FirstAppend is the wall clock at the first append of a record, in milliseconds.
	FirstAppend int64
	// LastAppend is the wall clock at the last append of a record, in milliseconds.
	LastAppend int64
	// IndexEntries is how many entries the .idx has.
	IndexEntries uint32
	// Chain is the checksum over all frames, see Cursor.
	Chain uint32
	// Aborted are the aborted transactions that end in this segment, by last
	// offset.
	Aborted []AbortedTransaction
}

// AbortedTransaction is a range of offsets whose records of one producer a
// read_committed consumer must not see.
type AbortedTransaction struct {
	// ProducerID is whose transaction it was.
	ProducerID int64
	// First is the offset of its first record.
	First Offset
	// Last is the offset of its abort marker.
	Last Offset
}

const (
	termStartSize = 24
	abortedSize   = 24
)

// PrevIndex is the index of the entry before the first frame, 0 without one.
func (h *FileHeader) PrevIndex() Index { return h.BaseIndex - 1 }

// Encode is the whole content of the header file.
func (h *FileHeader) Encode() []byte {
	var e Encoder
	e.String(h.Cluster)
	e.Raw(h.TopicID[:])
	e.Uint32(uint32(h.Partition))
	e.Uint64(uint64(h.BaseIndex))
	e.Uint64(uint64(h.BaseOffset))
	e.Uint64(uint64(h.PrevTerm))
	e.Uint64(uint64(h.RoundLimit))
	e.Bytes(h.Configuration)
	e.Uint64(uint64(h.ConfigurationIndex))
	EncodeTerms(&e, h.Terms)
	EncodeProducers(&e, h.Producers)
	if h.Seal == nil {
		e.Uint8(0)
	} else {
		e.Uint8(1)
		h.Seal.encode(&e)
	}
	return Wrap(FormatHeader1, e.Body())
}

// DecodeFileHeader reads what Encode wrote. The error is ErrFormat.
func DecodeFileHeader(data []byte) (*FileHeader, error) {
	body, err := Unwrap(FormatHeader1, data)
	if err != nil {
		return nil, fmt.Errorf("segment header: %w", err)
	}
	d := NewDecoder(body)
	h := &FileHeader{Cluster: d.String()}
	d.Raw(h.TopicID[:])
	h.Partition = int32(d.Uint32())
	h.BaseIndex = Index(d.Uint64())
	h.BaseOffset = d.Offset()
	h.PrevTerm = d.Term()
	h.RoundLimit = int64(d.Uint64())
	h.Configuration = d.Bytes()
	h.ConfigurationIndex = Index(d.Uint64())
	h.Terms = DecodeTerms(d)
	h.Producers = DecodeProducers(d)
	switch sealed := d.Uint8(); sealed {
	case 0:
	case 1:
		h.Seal = decodeSeal(d)
	default:
		d.Fail("sealed is %d", sealed)
	}
	if h.Partition < 0 || h.BaseIndex == 0 || h.RoundLimit <= 0 {
		d.Fail("partition %d, base index %d, round limit %d", h.Partition, h.BaseIndex, h.RoundLimit)
	}
	if s := h.Seal; s != nil && (s.Length <= 0 || s.LastIndex < h.BaseIndex || s.NextOffset <= h.BaseOffset || s.LastTerm < h.PrevTerm) {
		d.Fail("seal of %d bytes, last index %d, last term %d, next offset %d", s.Length, s.LastIndex, s.LastTerm, s.NextOffset)
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("segment header: %w", err)
	}
	return h, nil
}

func (s *Seal) encode(e *Encoder) {
	e.Uint64(uint64(s.Length))
	e.Uint64(uint64(s.LastIndex))
	e.Uint64(uint64(s.LastTerm))
	e.Uint64(uint64(s.NextOffset))
	e.Uint64(uint64(s.MaxTimestamp))
	e.Uint64(uint64(s.FirstAppend))
	e.Uint64(uint64(s.LastAppend))
	e.Uint32(s.IndexEntries)
	e.Uint32(s.Chain)
	e.Uint32(uint32(len(s.Aborted)))
	for _, a := range s.Aborted {
		e.Uint64(uint64(a.ProducerID))
		e.Uint64(uint64(a.First))
		e.Uint64(uint64(a.Last))
	}
}

func decodeSeal(d *Decoder) *Seal {
	s := &Seal{
		Length: int64(d.Uint64()), LastIndex: Index(d.Uint64()), LastTerm: d.Term(), NextOffset: d.Offset(),
		MaxTimestamp: int64(d.Uint64()), FirstAppend: int64(d.Uint64()), LastAppend: int64(d.Uint64()),
		IndexEntries: d.Uint32(), Chain: d.Uint32(),
	}
	for range d.Count(abortedSize) {
		s.Aborted = append(s.Aborted, AbortedTransaction{ProducerID: int64(d.Uint64()), First: d.Offset(), Last: d.Offset()})
	}
	return s
}

// EncodeTerms appends a table of terms.
func EncodeTerms(e *Encoder, terms []TermStart) {
	e.Uint32(uint32(len(terms)))
	for _, t := range terms {
		e.Uint64(uint64(t.Term))
		e.Uint64(uint64(t.Index))
		e.Uint64(uint64(t.Offset))
	}
}

// DecodeTerms takes a table of terms, which must ascend.
func DecodeTerms(d *Decoder) []TermStart {
	n := d.Count(termStartSize)
	if n == 0 {
		return nil
	}
	terms := make([]TermStart, n)
	for i := range terms {
		terms[i] = TermStart{Term: d.Term(), Index: Index(d.Uint64()), Offset: d.Offset()}
		if i > 0 && (terms[i].Term <= terms[i-1].Term || terms[i].Index <= terms[i-1].Index || terms[i].Offset < terms[i-1].Offset) {
			d.Fail("terms out of order at %d", terms[i].Term)
		}
	}
	return terms
}
