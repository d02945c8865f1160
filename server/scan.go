package server

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Before a body is decoded it is walked, because the decoder allocates an array
// from its declared count (bounded by one byte an element, while an element costs
// a hundred in memory), and loops over a declared number of tagged fields even
// when the bytes have run out. The walk allocates nothing, proves that every
// declared element is there, and counts what decoding will cost.

const (
	// maxElements bounds the array elements of one request, as Apache Kafka 4.4
	// does while decoding.
	maxElements = 1_000_000
	// maxBodyTags bounds the tagged fields of one request, which decode into maps.
	maxBodyTags = 10_000
	// maxDepth bounds nested arrays; the deepest request of Kafka has four levels.
	maxDepth = 8
	// elementCost and tagCost are what an element and a tagged field take in
	// memory once decoded, rounded up.
	elementCost = 160
	tagCost     = 128
)

// errBody is a request body that is not what its key and version say.
var errBody = errors.New("malformed request body")

// kind is the wire type of a field.
type kind uint8

const (
	kindFixed  kind = iota // size bytes
	kindString             // int16 length, or compact; null allowed
	kindBytes              // int32 length, or compact; null allowed
	kindArray              // int32 count, or compact; elements are structs (with tags if flexible)
	kindPlain              // as kindArray, elements are plain values (never with tags)
	kindTag                // a known tagged field that is a struct
)

// field describes one field of a request body.
type field struct {
	kind     kind
	size     int
	tag      uint32
	from, to int16 // versions that have it; to 0: no end
	fields   shape
}

// shape describes a request body: its fields in order. It exists to be walked;
// decoding is kmsg's.
type shape []field

// text is a string, nullable or not; the decoder knows which.
var text = field{kind: kindString}

// blob is a byte array, nullable or not.
var blob = field{kind: kindBytes}

// num is a fixed-size value of n bytes.
func num(n int) field { return field{kind: kindFixed, size: n} }

// array is an array of structs.
func array(fields ...field) field { return field{kind: kindArray, fields: fields} }

// plain is an array of single values.
func plain(of field) field { return field{kind: kindPlain, fields: shape{of}} }

// tagged is a struct in a tagged field; other known tags are single values and
// need no description.
func tagged(tag uint32, fields ...field) field { return field{kind: kindTag, tag: tag, fields: fields} }

// since limits a field to versions from v on, until to versions up to v.
func since(v int16, f field) field     { f.from = v; return f }
func until(v int16, f field) field     { f.to = v + 1; return f }
func within(a, b int16, f field) field { f.from, f.to = a, b+1; return f }
func (f *field) in(version int16) bool { return version >= f.from && (f.to == 0 || version < f.to) }
func (s *scanner) fail(what string) error {
	return fmt.Errorf("%w: %s at %d bytes before the end", errBody, what, len(s.left))
}

// scanner walks a body. The zero value with left set is ready.
type scanner struct {
	left     []byte
	version  int16
	flexible bool
	elements int
	tagCount int
	maxTags  int
}

// scanBody walks a body and returns what decoding it will cost in bytes of
// memory, beyond the body itself.
func scanBody(body []byte, s shape, version int16, flexible bool) (int64, error) {
	sc := scanner{left: body, version: version, flexible: flexible, maxTags: maxBodyTags}
	if err := sc.fields(s, 0); err != nil {
		return 0, err
	}
	return int64(sc.elements)*elementCost + int64(sc.tagCount)*tagCost, nil
}

// fields walks the fields of a struct, tags included.
func (s *scanner) fields(fields shape, depth int) error {
	if depth > maxDepth {
		return s.fail("nested too deeply")
	}
	for i := range fields {
		f := &fields[i]
		if !f.in(s.version) || f.kind == kindTag {
			continue
		}
		if err := s.field(f, depth); err != nil {
			return err
		}
	}
	if s.flexible {
		return s.tags(fields)
	}
	return nil
}

// field walks one field.
func (s *scanner) field(f *field, depth int) error {
	switch f.kind {
	case kindFixed:
		return s.skip(f.size)
	case kindString, kindBytes:
		n, err := s.length(f.kind)
		if err != nil {
			return err
		}
		return s.skip(n)
	default:
		return s.array(f, depth)
	}
}

// array walks an array's elements.
func (s *scanner) array(f *field, depth int) error {
	n, err := s.length(f.kind)
	if err != nil {
		return err
	}
	if n > len(s.left) {
		return s.fail(fmt.Sprintf("array of %d elements", n))
	}
	if s.elements += n; s.elements > maxElements {
		return s.fail(fmt.Sprintf("more than %d array elements", maxElements))
	}
	for range n {
		if f.kind == kindPlain {
			err = s.field(&f.fields[0], depth+1)
		} else {
			err = s.fields(f.fields, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// length reads a length or count; null counts as zero.
func (s *scanner) length(k kind) (int, error) {
	if s.flexible {
		n, err := s.uvarint()
		return max(int(n)-1, 0), err
	}
	width := 4
	if k == kindString {
		width = 2
	}
	b := s.left
	if err := s.skip(width); err != nil {
		return 0, err
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	if width == 4 {
		n = int(int32(binary.BigEndian.Uint32(b)))
	}
	if n < -1 {
		return 0, s.fail(fmt.Sprintf("length %d", n))
	}
	return max(n, 0), nil
}

// tags walks a section of tagged fields; known lists those that are structs.
func (s *scanner) tags(known shape) error {
	n, err := s.uvarint()
	if err != nil {
		return err
	}
	if s.tagCount += int(n); s.tagCount > s.maxTags || int(n) > len(s.left)/2 {
		return s.fail(fmt.Sprintf("%d tagged fields", n))
	}
	for range n {
		tag, err := s.uvarint()
		if err != nil {
			return err
		}
		size, err := s.uvarint()
		if err != nil {
			return err
		}
		content := s.left
		if err := s.skip(int(size)); err != nil {
			return err
		}
		if err := s.tagContent(known, tag, content[:size]); err != nil {
			return err
		}
	}
	return nil
}

// tagContent walks the struct inside a known tagged field.
func (s *scanner) tagContent(known shape, tag uint32, content []byte) error {
	for i := range known {
		if known[i].kind != kindTag || known[i].tag != tag {
			continue
		}
		inner := *s
		inner.left = content
		if err := inner.fields(known[i].fields, 0); err != nil {
			return err
		}
		s.elements, s.tagCount = inner.elements, inner.tagCount
	}
	return nil
}

// skip moves over n bytes.
func (s *scanner) skip(n int) error {
	if n > len(s.left) {
		return s.fail(fmt.Sprintf("%d bytes wanted", n))
	}
	s.left = s.left[n:]
	return nil
}

// uvarint reads an unsigned varint of at most 32 bits.
func (s *scanner) uvarint() (uint32, error) {
	var v uint64
	for i := 0; i < 5; i++ {
		if i >= len(s.left) {
			return 0, s.fail("varint cut short")
		}
		b := s.left[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			s.left = s.left[i+1:]
			if v > 1<<31-1 {
				return 0, s.fail("varint above 31 bits")
			}
			return uint32(v), nil
		}
	}
	return 0, s.fail("varint of more than five bytes")
}
