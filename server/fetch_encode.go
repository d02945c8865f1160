package server

import (
	"encoding/binary"
)

// A fetch answer is written by hand, because its record sets are file ranges
// that never pass through memory: the bytes between them are encoded with the
// ranges' lengths, and the ranges are spliced in when the answer is sent. Tests
// decode every version with kmsg.

// fetchResponse is what a fetch is answered with.
type fetchResponse struct {
	code    int16
	session int32
	topics  []fetchTopic
	brokers []address
	release func()
}

// fetchTopic is the answer's part of one topic.
type fetchTopic struct {
	ref     topicRef
	results []*fetchResult
}

// add appends a result to its topic, which is most often the last one.
func (r *fetchResponse) add(result *fetchResult) {
	for i := len(r.topics) - 1; i >= 0; i-- {
		if r.topics[i].ref == result.want.ref {
			r.topics[i].results = append(r.topics[i].results, result)
			return
		}
		if len(r.topics)-i > 16 {
			break // a topic may appear twice; looking further would be quadratic
		}
	}
	r.topics = append(r.topics, fetchTopic{ref: result.want.ref, results: []*fetchResult{result}})
}

// fetchEncoder writes a fetch answer of one version.
type fetchEncoder struct {
	answer   *answer
	b        []byte
	version  int16
	flexible bool
}

// encodeFetch lays out the answer; the ranges stay where they are.
func encodeFetch(h header, r *fetchResponse) *answer {
	e := &fetchEncoder{answer: &answer{release: r.release}, version: h.version, flexible: h.version >= 12}
	first := appendAnswerHeader(make([]byte, 0, 512), h.correlation, e.flexible)
	e.b = first
	e.i32(0) // throttle time
	if e.version >= 7 {
		e.i16(r.code)
		e.i32(r.session)
	}
	e.count(len(r.topics))
	for i := range r.topics {
		e.topic(&r.topics[i])
	}
	e.endpoints(r.brokers)
	e.cut()
	setAnswerLength(e.answer.parts[0].bytes, e.answer.size)
	return e.answer
}

func (e *fetchEncoder) topic(t *fetchTopic) {
	if e.version >= 13 {
		e.b = append(e.b, t.ref.id[:]...)
	} else {
		e.text(t.ref.name)
	}
	e.count(len(t.results))
	for _, result := range t.results {
		e.partition(result)
	}
	e.noTags()
}

func (e *fetchEncoder) partition(r *fetchResult) {
	e.i32(r.want.number)
	e.i16(r.code)
	e.i64(int64(r.watermark))
	e.i64(int64(r.watermark)) // last stable offset
	if e.version >= 5 {
		e.i64(int64(r.start))
	}
	e.count(0) // aborted transactions
	if e.version >= 11 {
		e.i32(-1) // preferred read replica
	}
	e.records(r)
	if !e.flexible {
		return
	}
	if r.hint.node < 0 {
		e.noTags()
		return
	}
	e.b = append(e.b, 1, 1, 9) // one tag: present leader, nine bytes
	e.i32(r.hint.node)
	e.i32(r.hint.epoch)
	e.b = append(e.b, 0)
}

// records writes the length of a record set and splices the set in.
func (e *fetchEncoder) records(r *fetchResult) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(r.size)+1)
	} else {
		e.i32(int32(r.size))
	}
	if r.size == 0 {
		return
	}
	e.cut()
	if r.bytes != nil {
		e.answer.addBytes(r.bytes)
	} else {
		e.answer.addSlice(&r.slice)
	}
}

// endpoints writes the addresses of hinted leaders as tagged field 0.
func (e *fetchEncoder) endpoints(brokers []address) {
	if !e.flexible {
		return
	}
	if len(brokers) == 0 || e.version < 16 {
		e.noTags()
		return
	}
	inner := fetchEncoder{version: e.version, flexible: true}
	inner.count(len(brokers))
	for _, b := range brokers {
		inner.i32(int32(b.node))
		inner.text(b.host)
		inner.i32(b.port)
		if b.rack == nil {
			inner.b = append(inner.b, 0)
		} else {
			inner.text(*b.rack)
		}
		inner.noTags()
	}
	e.b = append(e.b, 1, 0)
	e.b = binary.AppendUvarint(e.b, uint64(len(inner.b)))
	e.b = append(e.b, inner.b...)
}

// cut ends the present piece of memory.
func (e *fetchEncoder) cut() {
	if len(e.b) > 0 {
		e.answer.addBytes(e.b)
	}
	e.b = make([]byte, 0, 128)
}

func (e *fetchEncoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *fetchEncoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *fetchEncoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

// count writes the number of elements of an array.
func (e *fetchEncoder) count(n int) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(n)+1)
		return
	}
	e.i32(int32(n))
}

func (e *fetchEncoder) text(s string) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(len(s))+1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *fetchEncoder) noTags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}
