package segment

import (
	"errors"
	"io"
	"sort"
	"sync"
	"time"
)

const (
	// pieceSize is the unit in which a segment's checksums are checked.
	pieceSize = 1 << 20
	// checkLasts is how long a check counts: no batch is sent that was bad on the
	// disk that long ago.
	checkLasts = time.Hour
)

// Checks remembers which 1 MiB pieces of a segment this process has checked
// lately, and where their internal frames are. A frame belongs to the piece in
// which it begins. The zero value is ready; methods may be called concurrently.
type Checks struct {
	mu     sync.Mutex
	pieces []piece
}

// piece is what is known of one.
type piece struct {
	at       time.Time  // when the check began; zero: never
	first    int64      // where its first frame begins
	upTo     int64      // frames that begin before this were checked
	internal []Internal // those before upTo
}

// Internal is where an internal frame is.
type Internal struct {
	// Position is where it begins.
	Position int64
	// Offset is its base offset, that of the next record.
	Offset Offset
}

// Verify checks the CRC of every frame that begins in [from, to), unless that was
// done within the last hour. from and to must be ends of frames (or 0), and the
// frames up to to must be final. It returns the first internal frame in the range,
// if there is one. A wrong frame is a DamageError.
func (r *Reader) Verify(checks *Checks, from, to int64, now time.Time) (first Internal, found bool, err error) {
	for n := from / pieceSize; n*pieceSize < to; n++ {
		p, err := r.checked(checks, int(n), to, now)
		if err != nil {
			return Internal{}, false, err
		}
		i := sort.Search(len(p.internal), func(i int) bool { return p.internal[i].Position >= from })
		if !found && i < len(p.internal) && p.internal[i].Position < to {
			first, found = p.internal[i], true
		}
	}
	return first, found, nil
}

// checked is piece n, with everything in it checked that begins before to.
func (r *Reader) checked(checks *Checks, n int, to int64, now time.Time) (piece, error) {
	begin, end := int64(n)*pieceSize, min(int64(n+1)*pieceSize, to)
	checks.mu.Lock()
	var p piece
	if n < len(checks.pieces) {
		p = checks.pieces[n]
	}
	checks.mu.Unlock()
	fresh := !p.at.IsZero() && now.Sub(p.at) < checkLasts && now.Sub(p.at) >= 0
	if fresh && p.upTo >= end {
		return p, nil
	}
	if !fresh {
		first, err := r.firstFrame(begin, to)
		if err != nil {
			return piece{}, err
		}
		p = piece{at: now, first: first, upTo: first}
	}
	if err := r.check(&p, end, to); err != nil {
		return piece{}, err
	}
	checks.put(n, p)
	return p, nil
}

// put stores a piece, unless another goroutine has checked more of it.
func (c *Checks) put(n int, p piece) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pieces) <= n {
		c.pieces = append(c.pieces, piece{})
	}
	if old := c.pieces[n]; old.at.Equal(p.at) && old.upTo > p.upTo {
		return
	}
	c.pieces[n] = p
}

// firstFrame is where the first frame at or behind begin is.
func (r *Reader) firstFrame(begin, end int64) (int64, error) {
	if begin == 0 {
		return 0, nil
	}
	c, _, err := r.Locate(end,
		func(e IndexEntry) bool { return e.Position <= begin },
		func(c Cursor, _ Header) bool { return c.Position >= begin })
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return c.Position, nil
}

// check goes on with the frames of a piece that begin before end.
func (r *Reader) check(p *piece, end, fileEnd int64) error {
	scanner := NewScanner(r.file, p.upTo, fileEnd, ChunkFar)
	// The slice may be shared with an older copy of the piece: never append in place.
	p.internal = p.internal[:len(p.internal):len(p.internal)]
	for p.upTo < end {
		h, _, err := scanner.Header()
		var frame []byte
		if err == nil {
			frame, err = scanner.Frame(h)
		}
		if err == nil && !ChecksumOK(frame) {
			err = errChecksum
		}
		if err != nil {
			return r.damage(p.upTo, err)
		}
		if h.Kind() != KindRecords {
			p.internal = append(p.internal, Internal{Position: p.upTo, Offset: h.BaseOffset})
		}
		scanner.Pass(h)
		p.upTo = scanner.Position()
	}
	return nil
}
