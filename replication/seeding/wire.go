package seeding

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Requests and answers, big endian, numbers unsigned. Each begins with a version.
//
//	describe   version 1 | topic id 16 | partition 4 | S 8, 0 for the newest
//	answer     version 1 | session 8 | log start 8 | S 8 | its term 8 | count 4 |
//	           count x (base offset 8 | kind 1 | size 8 | sum 4), see log.SeedFile
//	read       version 1 | session 8 | file 4 | position 8 | length 4
//	answer     version 1 | length bytes
const (
	wireVersion  = 1
	describeSize = 1 + 16 + 4 + 8
	seedSize     = 1 + 8 + 8 + 8 + 8 + 4
	fileSize     = 8 + 1 + 8 + 4
	readSize     = 1 + 8 + 4 + 8 + 4
)

// MaxRead is the most bytes of one read.
const MaxRead = 1 << 20

// errMalformed is a message that does not decode.
var errMalformed = errors.New("malformed seeding message")

// describe asks for a description.
type describe struct {
	group transport.GroupID
	at    segment.Index
}

func (d describe) encode() []byte {
	b := append([]byte{wireVersion}, d.group.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(d.group.Partition))
	return binary.BigEndian.AppendUint64(b, uint64(d.at))
}

// sized checks version and size of a message; the body behind the version is returned.
func sized(b []byte, size int) ([]byte, error) {
	if len(b) != size || b[0] != wireVersion {
		return nil, fmt.Errorf("%w: %d bytes, must be %d of version %d", errMalformed, len(b), size, wireVersion)
	}
	return b[1:], nil
}

func decodeDescribe(b []byte) (describe, error) {
	var d describe
	b, err := sized(b, describeSize)
	if err != nil {
		return d, err
	}
	copy(d.group.Topic[:], b)
	d.group.Partition = int32(binary.BigEndian.Uint32(b[16:]))
	d.at = segment.Index(binary.BigEndian.Uint64(b[20:]))
	if d.group.Partition < 0 {
		return d, fmt.Errorf("%w: partition %d", errMalformed, d.group.Partition)
	}
	return d, nil
}

// encodeSeed is the answer to a describe.
func encodeSeed(session uint64, s *log.Seed) []byte {
	b := make([]byte, 0, seedSize+len(s.Files)*fileSize)
	b = append(b, wireVersion)
	for _, v := range []uint64{session, uint64(s.Start), uint64(s.Index), uint64(s.Term)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Files)))
	for _, f := range s.Files {
		b = binary.BigEndian.AppendUint64(b, uint64(f.Base))
		b = append(b, byte(f.Kind))
		b = binary.BigEndian.AppendUint64(b, uint64(f.Size))
		b = binary.BigEndian.AppendUint32(b, f.Sum)
	}
	return b
}

// decodeSeed reads the answer about a group. What it returns has passed Seed.Check.
func decodeSeed(group transport.GroupID, b []byte) (session uint64, s log.Seed, err error) {
	if len(b) < seedSize || b[0] != wireVersion {
		return 0, s, fmt.Errorf("%w: a description of %d bytes", errMalformed, len(b))
	}
	count, files := int64(binary.BigEndian.Uint32(b[seedSize-4:])), b[seedSize:]
	if count > log.MaxSeedFiles || count*fileSize != int64(len(files)) {
		return 0, s, fmt.Errorf("%w: %d files in %d bytes", errMalformed, count, len(files))
	}
	number := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	s = log.Seed{
		TopicID: group.Topic, Partition: group.Partition, Start: segment.Offset(number(9)),
		Index: segment.Index(number(17)), Term: segment.Term(number(25)), Files: make([]log.SeedFile, 0, count),
	}
	for ; len(files) > 0; files = files[fileSize:] {
		s.Files = append(s.Files, log.SeedFile{
			Base: segment.Offset(binary.BigEndian.Uint64(files)), Kind: log.SeedKind(files[8]),
			Size: int64(binary.BigEndian.Uint64(files[9:])), Sum: binary.BigEndian.Uint32(files[17:]),
		})
	}
	if err := s.Check(); err != nil {
		return 0, s, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return number(1), s, nil
}

// read asks for a part of a file.
type read struct {
	session  uint64
	file     int
	position int64
	length   int
}

func (r read) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{wireVersion}, r.session)
	b = binary.BigEndian.AppendUint32(b, uint32(r.file))
	b = binary.BigEndian.AppendUint64(b, uint64(r.position))
	return binary.BigEndian.AppendUint32(b, uint32(r.length))
}

func decodeRead(b []byte) (read, error) {
	b, err := sized(b, readSize)
	if err != nil {
		return read{}, err
	}
	r := read{
		session: binary.BigEndian.Uint64(b), file: int(binary.BigEndian.Uint32(b[8:])),
		position: int64(binary.BigEndian.Uint64(b[12:])), length: int(binary.BigEndian.Uint32(b[20:])),
	}
	if r.file >= log.MaxSeedFiles || r.position < 0 || r.length < 1 || r.length > MaxRead {
		return read{}, fmt.Errorf("%w: %d bytes at %d of file %d", errMalformed, r.length, r.position, r.file)
	}
	return r, nil
}
