package seeding

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
)

var testGroup = transport.GroupID{Topic: [16]byte{1, 2, 3, 15: 16}, Partition: 7}

func testSeed() log.Seed {
	return log.Seed{
		TopicID: testGroup.Topic, Partition: 7, Start: 5, Index: 900, Term: 3,
		Files: []log.SeedFile{
			{Base: 0, Kind: log.SeedHeader, Size: 300, Sum: 0xa},
			{Base: 0, Kind: log.SeedFrames, Size: 3 << 20, Sum: 0xb},
			{Base: 800, Kind: log.SeedHeader, Size: 310, Sum: 0xc},
		},
	}
}

// The bytes of each message. They never change.
const (
	goldenDescribe = "01" + "01020300000000000000000000000010" + "00000007" + "0000000000000384"
	goldenSeed     = "01" + "00000000deadbeef" + "0000000000000005" + "0000000000000384" + "0000000000000003" + "00000003" +
		"0000000000000000" + "01" + "000000000000012c" + "0000000a" +
		"0000000000000000" + "02" + "0000000000300000" + "0000000b" +
		"0000000000000320" + "01" + "0000000000000136" + "0000000c"
	goldenRead = "01" + "00000000deadbeef" + "00000001" + "0000000000100000" + "00001000"
)

func TestGoldenMessages(t *testing.T) {
	asked, want := describe{group: testGroup, at: 900}, testSeed()
	part := read{session: 0xdeadbeef, file: 1, position: 1 << 20, length: 4096}
	for golden, encoded := range map[string][]byte{
		goldenDescribe: asked.encode(), goldenSeed: encodeSeed(0xdeadbeef, &want), goldenRead: part.encode(),
	} {
		if got := hex.EncodeToString(encoded); got != golden {
			t.Errorf("encoding has changed:\n got %s\nwant %s", got, golden)
		}
	}
	if got, err := decodeDescribe(asked.encode()); err != nil || got != asked {
		t.Errorf("describe: %+v, %v", got, err)
	}
	if got, err := decodeRead(part.encode()); err != nil || got != part {
		t.Errorf("read: %+v, %v", got, err)
	}
	session, got, err := decodeSeed(testGroup, encodeSeed(0xdeadbeef, &want))
	if diff := cmp.Diff(want, got); err != nil || session != 0xdeadbeef || diff != "" {
		t.Errorf("seed: %x, %v: %s", session, err, diff)
	}
}

// TestMalformedMessages: every other length and version is refused, and what is out of
// its limits, before anything is allocated for it.
func TestMalformedMessages(t *testing.T) {
	seed := testSeed()
	for name, m := range map[string]struct {
		good   []byte
		decode func([]byte) error
	}{
		"describe": {describe{group: testGroup}.encode(), func(b []byte) error { _, err := decodeDescribe(b); return err }},
		"read":     {read{length: 1}.encode(), func(b []byte) error { _, err := decodeRead(b); return err }},
		"seed":     {encodeSeed(1, &seed), func(b []byte) error { _, _, err := decodeSeed(testGroup, b); return err }},
	} {
		if err := m.decode(m.good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		other := bytes.Clone(m.good)
		other[0]++
		for _, bad := range [][]byte{nil, m.good[:len(m.good)-1], append(bytes.Clone(m.good), 0), other} {
			if err := m.decode(bad); !errors.Is(err, errMalformed) {
				t.Errorf("%s of %d bytes: %v", name, len(bad), err)
			}
		}
	}
	for _, r := range []read{{length: 0}, {length: MaxRead + 1}, {length: 1, position: -1}, {length: 1, file: log.MaxSeedFiles}} {
		if _, err := decodeRead(r.encode()); !errors.Is(err, errMalformed) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := decodeDescribe(describe{group: transport.GroupID{Partition: -1}}.encode()); !errors.Is(err, errMalformed) {
		t.Errorf("partition -1: %v", err)
	}
	seed.Files[1].Size = 0
	if _, _, err := decodeSeed(testGroup, encodeSeed(1, &seed)); !errors.Is(err, errMalformed) {
		t.Errorf("a seed with an empty file: %v", err)
	}
}

// FuzzMessages: no message makes a decoder panic, and what it accepts is what it writes.
func FuzzMessages(f *testing.F) {
	for _, golden := range []string{goldenDescribe, goldenSeed, goldenRead} {
		b, err := hex.DecodeString(golden)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := decodeDescribe(b); err == nil && !bytes.Equal(d.encode(), b) {
			t.Errorf("%x is read as %+v", b, d)
		}
		if r, err := decodeRead(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("%x is read as %+v", b, r)
		}
		if session, s, err := decodeSeed(testGroup, b); err == nil && !bytes.Equal(encodeSeed(session, &s), b) {
			t.Errorf("%x is read as %+v", b, s)
		}
	})
}
