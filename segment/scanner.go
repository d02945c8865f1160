package segment

import (
	"errors"
	"fmt"
	"io"
)

// Scanner goes through the frames of a file, reading ahead in chunks. It trusts
// nothing that it reads.
type Scanner struct {
	file  io.ReaderAt
	pos   int64 // where the next frame begins
	end   int64
	chunk int
	buf   []byte
	at    int64 // file position of buf[0]
}

// Chunk sizes for NewScanner.
const (
	// ChunkNear is for a walk from an index entry to a frame nearby.
	ChunkNear = 4 << 10
	// ChunkFar is for going through a whole segment.
	ChunkFar = 256 << 10
)

// NewScanner begins at pos, where a frame must begin, and takes end for the end
// of the file. It reads chunk bytes at a time, more for a larger frame.
func NewScanner(file io.ReaderAt, pos, end int64, chunk int) *Scanner {
	return &Scanner{file: file, pos: pos, end: end, chunk: chunk}
}

// Position is where the next frame begins.
func (s *Scanner) Position() int64 { return s.pos }

// Header reads the next frame's header without passing it. raw are its bytes,
// valid until the next call. io.EOF is the end; io.ErrUnexpectedEOF a frame that
// reaches beyond it; a *BatchError a header that is none.
func (s *Scanner) Header() (h Header, raw []byte, err error) {
	if s.pos >= s.end {
		return Header{}, nil, io.EOF
	}
	if raw, err = s.peek(HeaderSize); err != nil {
		return Header{}, nil, err
	}
	if h, err = DecodeHeader(raw); err != nil {
		return Header{}, nil, err
	}
	if int64(h.FrameSize()) > s.end-s.pos {
		return h, raw, io.ErrUnexpectedEOF
	}
	return h, raw, nil
}

// Frame reads the whole frame whose header h is, without passing it. It is valid
// until the next call.
func (s *Scanner) Frame(h Header) ([]byte, error) { return s.peek(h.FrameSize()) }

// Pass goes on to the frame after the one whose header h is.
func (s *Scanner) Pass(h Header) { s.pos += int64(h.FrameSize()) }

// peek is the next n bytes, which the caller has bounded by MaxFrameSize.
func (s *Scanner) peek(n int) ([]byte, error) {
	if int64(n) > s.end-s.pos {
		return nil, io.ErrUnexpectedEOF
	}
	if from := s.pos - s.at; from >= 0 && from+int64(n) <= int64(len(s.buf)) {
		return s.buf[from : from+int64(n)], nil
	}
	want := int(min(max(int64(n), int64(s.chunk)), s.end-s.pos))
	if cap(s.buf) < want {
		s.buf = make([]byte, want)
	}
	s.buf = s.buf[:want]
	s.at = s.pos
	read, err := s.file.ReadAt(s.buf, s.pos)
	s.buf = s.buf[:read]
	if read >= n {
		return s.buf[:n], nil
	}
	if err == nil || errors.Is(err, io.EOF) { // shorter than the caller believes
		return nil, io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read frame at byte %d: %w", s.pos, err)
}
