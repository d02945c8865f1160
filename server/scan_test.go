package server

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill sets every field of a request to something random and valid, so that the
// encoder writes it where the version has it.
func fill(v reflect.Value, r *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name == "Version" || name == "UnknownTags" {
				continue
			}
			fill(v.Field(i), r, depth+1)
		}
	case reflect.Slice:
		n := r.IntN(4)
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			if d := s.Index(i); d.CanAddr() {
				fill(d, r, depth+1)
			}
		}
		v.Set(s)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), r, depth)
		}
	case reflect.Pointer:
		if r.IntN(3) == 0 {
			return
		}
		p := reflect.New(v.Type().Elem())
		fill(p.Elem(), r, depth)
		v.Set(p)
	case reflect.String:
		v.SetString("topic-with-a-name"[:r.IntN(17)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(100)))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	}
}

// Every shape must walk every version of its request to the last byte: the
// shapes are written by hand, the encoder is generated from Kafka's schemas.
func TestShapesAgreeWithEncoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range table {
		api := &table[i]
		for version := api.min; version <= api.max; version++ {
			for range 50 {
				req := kmsg.RequestForKey(api.key)
				req.SetVersion(version)
				fill(reflect.ValueOf(req).Elem(), r, 0)
				req.SetVersion(version)
				body := req.AppendTo(nil)
				s := scanner{left: body, version: version, flexible: req.IsFlexible(), maxTags: maxBodyTags}
				if err := s.fields(api.shape, 0); err != nil {
					t.Fatalf("%s v%d: %v", api.name, version, err)
				}
				if len(s.left) > 0 {
					t.Fatalf("%s v%d: %d of %d bytes left", api.name, version, len(s.left), len(body))
				}
				// What the walk accepts, cut short, it refuses.
				if len(body) > 0 {
					if _, err := scanBody(body[:len(body)-1], api.shape, version, req.IsFlexible()); err == nil {
						t.Fatalf("%s v%d: accepted without its last byte", api.name, version)
					}
				}
			}
		}
	}
}

func TestScanRefuses(t *testing.T) {
	produce := func(rest ...byte) []byte { // v9: null transactional id, acks, timeout
		return append([]byte{0, 0xff, 0xff, 0, 0, 0, 1}, rest...)
	}
	old := func(count uint32) []byte { // v3
		b := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}
		return binary.BigEndian.AppendUint32(b, count)
	}
	many := append(produce(0x81, 0x89, 0x7a), make([]byte, 6_000_001)...) // 2,000,000 topics without name and partitions
	for _, row := range []struct {
		name    string
		shape   shape
		version int16
		body    []byte
	}{
		{"array of 2^31-2 elements", produceShape, 9, produce(0xff, 0xff, 0xff, 0xff, 0x07)},
		{"array of 2^32-2 elements", produceShape, 9, produce(0xff, 0xff, 0xff, 0xff, 0x0f)},
		{"two million elements, all there", produceShape, 9, many},
		{"array of -2 elements", produceShape, 3, old(0xfffffffe)},
		{"array of 2^31-1 elements", produceShape, 3, old(0x7fffffff)},
		{"records longer than the request", produceShape, 9, produce(2, 2, 'a', 2, 0, 0, 0, 0, 0xff, 0x7f, 1)},
		{"tags that are not there", produceShape, 9, produce(1, 0xff, 0xff, 0xff, 0xff, 0x07)},
		{"tags inside a tagged struct", fetchShape, 15, append(append(make([]byte, 0, 64),
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1,
			1, 17), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x07)},
	} {
		t.Run(row.name, func(t *testing.T) {
			var err error
			allocated := testing.AllocsPerRun(1, func() { _, err = scanBody(row.body, row.shape, row.version, row.version >= 9) })
			if !errors.Is(err, errBody) {
				t.Fatalf("err = %v", err)
			}
			if allocated > 20 {
				t.Fatalf("%v allocations", allocated)
			}
		})
	}
}

// Whatever the walk accepts, the decoder must survive, cheaply.
func FuzzRequestBody(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range table {
		req := kmsg.RequestForKey(table[i].key)
		req.SetVersion(table[i].max)
		fill(reflect.ValueOf(req).Elem(), r, 0)
		req.SetVersion(table[i].max)
		f.Add(table[i].key, table[i].max, req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		api := lookup(table[:], key)
		if api == nil || version < api.min || version > api.max {
			return
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		if _, err := scanBody(body, api.shape, version, req.IsFlexible()); err != nil {
			return
		}
		if err := req.ReadFrom(body); err != nil {
			return
		}
		req.AppendTo(nil)
	})
}
