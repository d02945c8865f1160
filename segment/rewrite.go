package segment

import (
	"fmt"
	"io"
)

// rewrite writes the frames between two cursors of a recovery to their places once
// more, as they are; the sync is the caller's. Recover says why.
//
// What it writes it has checked in memory: a page that the kernel took for clean
// may have been dropped since the recovery read it, and the disk may hold something
// older. Then this fails, and has put nothing into the file that was not there.
func (w *Writer) rewrite(from, to Cursor) error {
	out := pieces{file: w.file, at: from.Position}
	scanner := NewScanner(w.file, from.Position, to.Position, ChunkFar)
	for c := from; ; {
		if c.Position == to.Position {
			if c.Chain != to.Chain {
				return fmt.Errorf("write frames again: bytes %d to %d of %s are not what they were a moment ago", from.Position, to.Position, LogName(w.header.BaseOffset))
			}
			return out.flush()
		}
		h, _, err := scanner.Header()
		var frame []byte
		if err == nil {
			frame, err = scanner.Frame(h)
		}
		if err == nil && !ChecksumOK(frame) {
			err = errChecksum
		}
		if err == nil {
			err = out.add(frame)
		}
		if err != nil {
			return fmt.Errorf("write frames again, at byte %d of %s: %w", c.Position, LogName(w.header.BaseOffset), err)
		}
		c.Step(frame, h, nil)
		scanner.Pass(h)
	}
}

// pieces writes frames that follow each other, many small ones at a time.
type pieces struct {
	file io.WriterAt
	at   int64
	buf  []byte
}

// add takes a frame, which may change afterwards.
func (p *pieces) add(frame []byte) error {
	if len(p.buf)+len(frame) > ChunkFar {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if len(frame) > ChunkFar {
		return p.write(frame)
	}
	p.buf = append(p.buf, frame...)
	return nil
}

// flush writes what waits.
func (p *pieces) flush() error {
	err := p.write(p.buf)
	p.buf = p.buf[:0]
	return err
}

func (p *pieces) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := p.file.WriteAt(b, p.at)
	p.at += int64(len(b))
	return err
}
