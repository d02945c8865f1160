package server

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/segment"
)

// prepared is a batch that may enter the log.
type prepared struct {
	frame    []byte
	header   segment.Header
	appended int64 // LogAppendTime in milliseconds, -1 without
	fresh    bool  // frame is a new buffer, not a part of the request
	record   int   // with a failure: the record that is wrong, -1
}

// prepareBatch checks a batch of a client as DESIGN 6 says, and brings it into
// the form in which it is stored: the append time, if the topic wants it, and
// the codec. It does not keep or change more of the frame than that.
func prepareBatch(frame []byte, s *topicSettings, now time.Time) (prepared, *failure) {
	limits := s.limits
	limits.Now = now
	p := prepared{frame: frame, appended: -1, record: -1}
	if len(frame) == 0 {
		return p, fail(kerr.InvalidRecord, "no record batch")
	}
	var err error
	if p.header, err = segment.Check(frame, limits); err != nil {
		var bad *segment.BatchError
		if errors.As(err, &bad) {
			p.record = bad.Record
		}
		return p, batchFailure(err)
	}
	if p.header.Attributes.Transactional() {
		return p, fail(kerr.InvalidRequest, "transactions are not available in this version")
	}
	if f := recode(&p, s); f != nil {
		return p, f
	}
	if s.appendTime {
		p.appended = now.UnixMilli()
		segment.SetAppendTime(p.frame, p.appended)
	}
	if max := s.limits.MaxBatchBytes; len(p.frame) > max {
		return p, fail(kerr.MessageTooLarge, "larger than max.message.bytes in the codec of the topic")
	}
	return p, nil
}

// recode compresses a batch, or changes its codec, where the topic says so:
// compression.type has Kafka's meaning; with producer, a batch that came
// uncompressed is compressed by millrace.compression if that makes it smaller.
func recode(p *prepared, s *topicSettings) *failure {
	have := p.header.Attributes.Codec()
	if s.stored == "producer" {
		if have != segment.CodecNone || s.atRest == segment.CodecNone {
			return nil
		}
		return compress(p, s.atRest)
	}
	want := codecNames[s.stored]
	if want == have {
		return nil
	}
	if have != segment.CodecNone {
		plain, err := segment.Inflate(p.frame, s.inflatedBytes)
		if err != nil {
			return batchFailure(err)
		}
		p.frame, p.fresh = plain, true
	}
	if want == segment.CodecNone {
		return nil
	}
	return compress(p, want)
}

// compress replaces the frame by a smaller one, if the codec makes it smaller.
func compress(p *prepared, codec segment.Codec) *failure {
	out, smaller, err := segment.Compress(p.frame, codec)
	if err != nil {
		return fail(kerr.UnknownServerError, "compress: "+err.Error())
	}
	if smaller {
		p.frame, p.fresh = out, true
	}
	return nil
}
