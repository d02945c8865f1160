package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/millrace/millrace/replication/transport"
)

// The file of votes, DATA/votes.log. It is one block that describes the file,
// then rounds, each in blocks of its own, then zeros up to the preallocated end.
// A round is one write with one sync and holds the records of all groups that
// waited for it. Integers are big-endian. Format number 1:
//
//	 block 0                                    a round, at a multiple of 4096
//	 0       8         12     16        24      0       4        8          16        20        24
//	+-------+---------+------+---------+-----+  +-------+--------+----------+---------+---------+---------+
//	| magic | version | zero | settled | CRC |  | magic | length | sequence | records | head    | records |
//	+-------+---------+------+---------+-----+  |       |        |          | CRC     | CRC     | ...     |
//	                                            +-------+--------+----------+---------+---------+---------+
//
//	magic    8   "MRVOTES\n"                    magic     4    "MRVR"
//	version  u32 1                              length    u32  bytes of the records
//	settled  u64 end of the rounds that were    sequence  u64  1, 2, 3 ... in this file
//	             synced before the file got     CRC       u32  CRC32C of the records
//	             its name                       CRC       u32  CRC32C of bytes 0 to 19
//	CRC      u32 CRC32C of bytes 0 to 23
//
//	 record
//	 0      1          2           6       22      30
//	+------+----------+-----------+-------+-------+-----------+
//	| kind | text len | partition | topic | value | text ...  |
//	+------+----------+-----------+-------+-------+-----------+
//
//	kind 1 register   value: replica incarnation. The group starts empty.
//	kind 2 term       value: current term
//	kind 3 vote       value: term of the vote; text: candidate, at most 255 bytes
//	kind 4 forget     the group is gone
//	kind 5 doubt      what the group last voted may be lost (see Votes)
//
// A round never shares a block with the one before: writing it cannot damage
// what was synced, even where sectors are not written atomically.
const (
	votesMagic      = "MRVOTES\n"
	votesRoundMagic = "MRVR"
	votesVersion    = 1

	votesBlock       = 4096
	votesSector      = 512 // what a disk writes or does not write as a whole
	votesFileHeader  = 28
	votesRoundHeader = 24
	votesRecordFixed = 30
	votesMaxText     = 255
	// votesMaxRound bounds a round in bytes, header included.
	votesMaxRound = 64 << 10
	// votesMaxFile bounds the file: it is read as a whole when opened.
	votesMaxFile = 1 << 30
)

// Kinds of a record. Numbers are on disk.
const (
	voteRegister = 1
	voteTerm     = 2
	voteCast     = 3
	voteForget   = 4
	voteDoubt    = 5
)

// voteRecord is one record, decoded.
type voteRecord struct {
	kind  uint8
	group transport.GroupID
	value uint64
	text  string
}

// size is the record's bytes on disk.
func (r voteRecord) size() int { return votesRecordFixed + len(r.text) }

// append appends the record to dst. The caller has checked the text's length.
func (r voteRecord) append(dst []byte) []byte {
	dst = append(dst, r.kind, byte(len(r.text)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.group.Partition))
	dst = append(dst, r.group.Topic[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.value)
	return append(dst, r.text...)
}

// errVoteRecord is records that no version up to this one writes.
var errVoteRecord = errors.New("record of no known form")

// decodeVoteRecords reads all records of a round, whose checksum was verified.
func decodeVoteRecords(b []byte) ([]voteRecord, error) {
	var records []voteRecord
	for len(b) > 0 {
		if len(b) < votesRecordFixed {
			return nil, fmt.Errorf("%w: %d bytes left", errVoteRecord, len(b))
		}
		r := voteRecord{kind: b[0], value: binary.BigEndian.Uint64(b[22:])}
		r.group.Partition = int32(binary.BigEndian.Uint32(b[2:]))
		copy(r.group.Topic[:], b[6:22])
		end := votesRecordFixed + int(b[1])
		switch {
		case r.kind < voteRegister || r.kind > voteDoubt:
			return nil, fmt.Errorf("%w: kind %d", errVoteRecord, r.kind)
		case end > len(b) || (end > votesRecordFixed && r.kind != voteCast):
			return nil, fmt.Errorf("%w: text of %d bytes in kind %d, %d bytes left", errVoteRecord, b[1], r.kind, len(b))
		}
		r.text = string(b[votesRecordFixed:end])
		records = append(records, r)
		b = b[end:]
	}
	return records, nil
}

// appendVotesRound appends a round, padded to whole blocks, to dst.
func appendVotesRound(dst []byte, sequence uint64, records []byte) []byte {
	start := len(dst)
	dst = append(dst, votesRoundMagic...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(records)))
	dst = binary.BigEndian.AppendUint64(dst, sequence)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(records, castagnoli))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	dst = append(dst, records...)
	return append(dst, make([]byte, wholeBlocks(len(dst)-start)-(len(dst)-start))...)
}

// castagnoli is the table of CRC32C.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// wholeBlocks is n rounded up to a multiple of the block.
func wholeBlocks(n int) int { return (n + votesBlock - 1) / votesBlock * votesBlock }

// votesRoundHead reads the head of a round: its sequence and the bytes of its
// records; false if it is not intact.
func votesRoundHead(b []byte) (sequence uint64, length int, ok bool) {
	if len(b) < votesRoundHeader || string(b[:4]) != votesRoundMagic ||
		crc32.Checksum(b[:20], castagnoli) != binary.BigEndian.Uint32(b[20:]) {
		return 0, 0, false
	}
	size := binary.BigEndian.Uint32(b[4:])
	if size > votesMaxRound-votesRoundHeader {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), int(size), true
}

// appendVotesHeader appends block 0.
func appendVotesHeader(dst []byte, settled int64) []byte {
	start := len(dst)
	dst = append(dst, votesMagic...)
	dst = binary.BigEndian.AppendUint32(dst, votesVersion)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(settled))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, make([]byte, votesBlock-votesFileHeader)...)
}

// decodeVotesHeader reads block 0 and returns settled.
func decodeVotesHeader(b []byte) (int64, error) {
	switch {
	case len(b) < votesBlock:
		return 0, fmt.Errorf("the file has %d bytes, less than its header", len(b))
	case string(b[:8]) != votesMagic:
		return 0, errors.New("the file does not begin like a file of votes")
	case crc32.Checksum(b[:24], castagnoli) != binary.BigEndian.Uint32(b[24:]):
		return 0, errors.New("the checksum of the file's header is wrong")
	}
	if version := binary.BigEndian.Uint32(b[8:]); version != votesVersion {
		return 0, fmt.Errorf("%w: version %d, this program knows %d", ErrVotesVersion, version, votesVersion)
	}
	settled := binary.BigEndian.Uint64(b[16:])
	if settled < votesBlock || settled%votesBlock != 0 || settled > uint64(len(b)) {
		return 0, fmt.Errorf("the header says that %d of %d bytes were synced", settled, len(b))
	}
	return int64(settled), nil
}
