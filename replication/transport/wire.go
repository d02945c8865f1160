package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// maxIndex is far above any index, and far below where adding the entries of a
// request would overflow.
const maxIndex = 1 << 62

// ErrMalformed is the error of a message of a raft group that does not decode:
// too short, too long, a length or count over its limit, or a version that this
// broker does not know. The message is refused; nothing else happens.
var ErrMalformed = errors.New("transport: malformed raft message")

// wireReader takes a message apart, big endian. Every length is checked against
// the bytes left; after the first error all further values are zero, so that
// callers look at the error once, at the end.
type wireReader struct {
	rest []byte
	err  error
}

// fail keeps the first error.
func (r *wireReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes, which alias the message; nil after an error.
func (r *wireReader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.rest) {
		r.fail("%d bytes wanted, %d left", n, len(r.rest))
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *wireReader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *wireReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *wireReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// term reads a term. A log stores terms in 31 bits, and raft adopts any later
// term it hears of, so a larger one must not get that far.
func (r *wireReader) term() uint64 {
	t := r.uint64()
	if t > uint64(segment.MaxTerm) {
		r.fail("term %d", t)
	}
	return t
}

// index reads a log index.
func (r *wireReader) index() uint64 {
	i := r.uint64()
	if i > maxIndex {
		r.fail("index %d", i)
	}
	return i
}

// count reads a number of things that take at least size bytes each.
func (r *wireReader) count(size, limit int) int {
	n := r.uint32()
	if int64(n) > int64(limit) || int64(n)*int64(size) > int64(len(r.rest)) {
		r.fail("%d elements, at most %d, %d bytes left", n, limit, len(r.rest))
		return 0
	}
	return int(n)
}

// id reads a server id.
func (r *wireReader) id() raft.ServerID {
	n := int(r.uint8())
	if n > maxServerID {
		r.fail("server id of %d bytes", n)
	}
	return raft.ServerID(r.take(n))
}

// group reads a GroupID.
func (r *wireReader) group() GroupID {
	var g GroupID
	copy(g.Topic[:], r.take(len(g.Topic)))
	g.Partition = int32(r.uint32())
	if g.Partition < 0 {
		r.fail("partition %d", g.Partition)
	}
	return g
}

// version reads the version byte that begins each message.
func (r *wireReader) version() {
	if v := r.uint8(); v != wireVersion {
		r.fail("version %d, this broker knows %d", v, wireVersion)
	}
}

// end is the first error, or one about bytes that are left over.
func (r *wireReader) end() error {
	if len(r.rest) > 0 {
		r.fail("%d bytes left over", len(r.rest))
	}
	return r.err
}

// appendID writes a server id, which is at most maxServerID bytes long.
func appendID(b []byte, id raft.ServerID) []byte {
	return append(append(b, uint8(len(id))), id...)
}

// appendGroup writes a GroupID.
func appendGroup(b []byte, g GroupID) []byte {
	return binary.BigEndian.AppendUint32(append(b, g.Topic[:]...), uint32(g.Partition))
}

// appendUint64s writes numbers one after the other.
func appendUint64s(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// flag is bit if set, else 0.
func flag(set bool, bit uint8) uint8 {
	if set {
		return bit
	}
	return 0
}
