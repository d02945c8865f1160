package segment

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	// windowSize is what a walker sees of a stream at a time.
	windowSize = 32 << 10
	// zstdWindow is the window up to which zstd decoders are pooled: what RFC
	// 8878 wants every decoder to support, and all that levels up to 19 use.
	zstdWindow = 8 << 20
	// zstdWideWindow is the largest window that is read, as in Java's client
	// (levels 20 to 22).
	zstdWideWindow = 128 << 20
	// maxKeptBlock is the largest snappy block whose buffer is kept for reuse.
	maxKeptBlock = 1 << 20
)

// decoder decompresses one payload, to io.EOF only if nothing lies behind its
// end. What it holds of the payload it lets go of on reset(nil), so that pooled
// ones pin no request buffers.
type decoder interface {
	io.Reader
	// reset starts on a payload; limit is how many bytes the caller will read.
	reset(src []byte, limit int64) error
}

// stream is a decoder in use: it counts the bytes that come out.
type stream struct {
	decoder decoder
	codec   Codec
	left    int64
	window  []byte // of a walker
	wide    bool   // holds a place in wideWindows
}

// streamPools keep decoders by codec: a zstd decoder takes more than 100 KiB and
// longer to make than to use.
var streamPools [len(codecNames)]sync.Pool

// wideWindows admits two at a time of the zstd payloads with windows above
// zstdWindow: each may pin 128 MiB, from a payload of a few bytes.
var wideWindows = make(chan struct{}, 2)

// openStream starts to decompress a payload, of which limit bytes may come out
// before the error is ErrInflatedTooLarge. The caller closes the stream.
func openStream(codec Codec, src []byte, limit int64) (*stream, error) {
	if codec == CodecNone || !codec.Known() {
		return nil, batchErrorf(UnsupportedCodec, "%s", codec)
	}
	s := &stream{codec: codec}
	if codec == CodecZstd && zstdNeedsWide(src) {
		wideWindows <- struct{}{}
		s = newStream(codec, zstdWideWindow)
		s.wide = true
	} else if pooled, ok := streamPools[codec].Get().(*stream); ok {
		s = pooled
	} else {
		s = newStream(codec, zstdWindow)
	}
	s.left = limit
	if err := s.decoder.reset(src, limit); err != nil {
		s.close()
		return nil, decodeError(codec, err)
	}
	return s, nil
}

// newStream makes a stream with a decoder of its own.
func newStream(codec Codec, window uint64) *stream {
	s := &stream{codec: codec, window: make([]byte, windowSize)}
	switch codec {
	case CodecGzip:
		s.decoder = new(gzipDecoder)
	case CodecSnappy:
		s.decoder = new(snappyDecoder)
	case CodecLZ4:
		s.decoder = &lz4Decoder{reader: lz4.NewReader(nil)}
	case CodecZstd:
		// Concurrency 1 decodes on the caller's goroutine; the options are
		// constants, so there is no error.
		reader, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(window))
		s.decoder = &zstdDecoder{reader: reader}
	}
	return s
}

// close gives the decoder back.
func (s *stream) close() {
	err := s.decoder.reset(nil, 0)
	if s.wide {
		<-wideWindows
		return
	}
	if err == nil {
		streamPools[s.codec].Put(s)
	}
}

// Read reads uncompressed bytes. io.EOF means that the payload ended where it
// should. Errors are *BatchError or ErrInflatedTooLarge.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.decoder.Read(p)
	s.left -= int64(n)
	switch {
	case s.left < 0:
		return 0, ErrInflatedTooLarge
	case err == nil || err == io.EOF:
		return n, err
	}
	return n, decodeError(s.codec, err)
}

// decodeError makes what a codec's package says a *BatchError.
func decodeError(codec Codec, err error) error {
	if errors.Is(err, ErrInflatedTooLarge) {
		return err
	}
	return batchErrorf(Corrupt, "%s: %v", codec, err)
}

// gzipDecoder reads CodecGzip.
type gzipDecoder struct {
	source bytes.Reader // an io.ByteReader, so that nothing is read ahead
	reader gzip.Reader
}

func (d *gzipDecoder) reset(src []byte, _ int64) error {
	d.source.Reset(src)
	if src == nil {
		return nil
	}
	return d.reader.Reset(&d.source)
}

func (d *gzipDecoder) Read(p []byte) (int, error) { return d.reader.Read(p) }

// zstdDecoder reads CodecZstd.
type zstdDecoder struct {
	source bytes.Reader
	reader *zstd.Decoder
}

func (d *zstdDecoder) reset(src []byte, _ int64) error {
	d.source.Reset(src)
	if src == nil {
		return d.reader.Reset(nil)
	}
	// *bytes.Buffer would make Reset decode everything at once; a Reader does not.
	return d.reader.Reset(&d.source)
}

func (d *zstdDecoder) Read(p []byte) (int, error) { return d.reader.Read(p) }

// zstdNeedsWide reports a first frame with a window above zstdWindow.
func zstdNeedsWide(src []byte) bool {
	var header zstd.Header
	if err := header.Decode(src); err != nil {
		return false // the decoder will say so
	}
	window := header.WindowSize
	if header.SingleSegment {
		window = header.FrameContentSize
	}
	return window > zstdWindow
}
