package server

import (
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/segment/vfs"
)

const (
	// sendfileMin is the shortest file range that is sent by sendfile; a shorter
	// one is cheaper to copy.
	sendfileMin = 32 << 10
	// writeStall is how long a client may take to accept the next piece of an
	// answer before it counts as gone.
	writeStall = 30 * time.Second
	// writePiece is how much is written under one deadline.
	writePiece = 1 << 20
)

// answer is a response on its way out: pieces of memory and ranges of segment
// files, in order. The first four bytes are the length of the rest.
type answer struct {
	parts []part
	size  int64
	// release gives back what the answer holds (pinned files, memory). Called
	// once, after the answer was written or given up; may be nil.
	release func()
}

// part is a piece of an answer: bytes, or a slice of a log.
type part struct {
	bytes []byte
	slice *log.Slice
}

// addBytes appends memory.
func (a *answer) addBytes(b []byte) {
	a.parts = append(a.parts, part{bytes: b})
	a.size += int64(len(b))
}

// addSlice appends the records of a log's slice.
func (a *answer) addSlice(s *log.Slice) {
	if s.File == nil {
		a.addBytes(s.Bytes)
		return
	}
	a.parts = append(a.parts, part{slice: s})
	a.size += s.Length
}

// close releases what the answer holds.
func (a *answer) close() {
	if a != nil && a.release != nil {
		a.release()
	}
}

// encode makes the answer of an ordinary response.
func encode(h header, response kmsg.Response) *answer {
	response.SetVersion(h.version)
	if h.key == keyAPIVersions && response.GetVersion() > apiVersionsMax {
		response.SetVersion(0)
	}
	b := appendAnswerHeader(make([]byte, 0, 256), h.correlation, response.IsFlexible() && h.key != keyAPIVersions)
	b = response.AppendTo(b)
	setAnswerLength(b, int64(len(b)))
	a := &answer{}
	a.addBytes(b)
	return a
}

// sink writes answers to one connection.
type sink struct {
	conn net.Conn
	raw  sendfiler // nil where the connection cannot take files (TLS, pipes)
	node *node     // counts what is sent how
}

// write sends the whole answer.
func (s *sink) write(a *answer) error {
	var buffers net.Buffers
	flush := func() error {
		if len(buffers) == 0 {
			return nil
		}
		err := s.buffers(buffers)
		buffers = nil
		return err
	}
	for _, p := range a.parts {
		if p.slice == nil {
			buffers = append(buffers, p.bytes)
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := s.slice(p.slice); err != nil {
			return err
		}
	}
	return flush()
}

// buffers writes memory in pieces, each under its own deadline.
func (s *sink) buffers(buffers net.Buffers) error {
	for len(buffers) > 0 {
		var piece net.Buffers
		for room := writePiece; len(buffers) > 0 && room > 0; {
			b := buffers[0]
			n := min(len(b), room)
			piece = append(piece, b[:n])
			room -= n
			if buffers[0] = b[n:]; n == len(b) {
				buffers = buffers[1:]
			}
		}
		if err := s.deadline(); err != nil {
			return err
		}
		if _, err := piece.WriteTo(s.conn); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
	return nil
}

// slice sends a range of a segment file.
func (s *sink) slice(slice *log.Slice) error {
	position, left := slice.Position, slice.Length
	file, ok := descriptor(slice.File)
	if ok && s.raw != nil && left >= sendfileMin {
		for left > 0 {
			if err := s.deadline(); err != nil {
				return err
			}
			n, err := s.raw.sendfile(file, position, min(left, writePiece))
			if err != nil {
				return fmt.Errorf("send segment: %w", err)
			}
			position, left = position+n, left-n
			s.node.files.Add(n)
		}
		return nil
	}
	buf := make([]byte, min(left, writePiece))
	for left > 0 {
		n := min(left, int64(len(buf)))
		if _, err := slice.File.ReadAt(buf[:n], position); err != nil {
			return fmt.Errorf("read segment: %w", err)
		}
		if err := s.buffers(net.Buffers{buf[:n]}); err != nil {
			return err
		}
		position, left = position+n, left-n
		s.node.copied.Add(n)
	}
	return nil
}

// descriptor is the system's descriptor of a segment file; a test's file system
// has none.
func descriptor(f vfs.File) (uintptr, bool) {
	d, ok := f.(vfs.Descriptor)
	if !ok {
		return 0, false
	}
	return d.Fd(), true
}

func (s *sink) deadline() error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	return nil
}
