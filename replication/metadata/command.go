package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrUnknownCommand is the error of a command whose envelope, number or version
// this program does not know: a newer leader wrote it. The node must stop, since
// it can no longer follow the state of the others.
var ErrUnknownCommand = errors.New("metadata: a command of a newer version")

// number identifies a command in the log. On disk: never changed, never reused.
type number uint8

const (
	numberFound               number = 1
	numberRegisterBroker      number = 2
	numberCreateTopic         number = 3
	numberDeleteTopic         number = 4
	numberConfirmDelete       number = 5
	numberAlterTopicConfigs   number = 6
	numberAllocateProducerIDs number = 7
	numberFoundWithout        number = 8
	numberEndFounding         number = 9
	// 10 to 12 are for membership changes.
	numberUnregisterBroker number = 13
	numberDrainBroker      number = 14
	numberReplicasLeft     number = 11
	numberAlterAssignment  number = 12
)

// Command is a change of the cluster's state. Its fields must not be changed
// once it was given to EncodeCommand or State.Apply.
type Command interface {
	number() number
	// fields codes the body, in the layout drawn above each command.
	fields(*coder)
	// apply changes the picture that is being made, or refuses and changes nothing.
	apply(*draft) Result
}

// spec is one row of the table of commands.
type spec struct {
	version uint8          // the layout that this program writes; it reads all from 1 on
	blank   func() Command // what the body is decoded into
}

// commands is the table of everything that can be in the log.
var commands = map[number]spec{
	numberFound:               {2, func() Command { return new(Found) }},
	numberRegisterBroker:      {1, func() Command { return new(RegisterBroker) }},
	numberCreateTopic:         {1, func() Command { return new(CreateTopic) }},
	numberDeleteTopic:         {1, func() Command { return new(DeleteTopic) }},
	numberConfirmDelete:       {1, func() Command { return new(ConfirmDelete) }},
	numberAlterTopicConfigs:   {1, func() Command { return new(AlterTopicConfigs) }},
	numberAllocateProducerIDs: {1, func() Command { return new(AllocateProducerIDs) }},
	numberFoundWithout:        {1, func() Command { return new(FoundWithout) }},
	numberEndFounding:         {1, func() Command { return new(EndFounding) }},
	numberReplicasLeft:        {1, func() Command { return new(ReplicasLeft) }},
	numberAlterAssignment:     {1, func() Command { return new(AlterAssignment) }},
	numberUnregisterBroker:    {1, func() Command { return new(UnregisterBroker) }},
	numberDrainBroker:         {1, func() Command { return new(DrainBroker) }},
}

// The envelope of a command:
//
//	 0  u8   envelope version, 1
//	 1  u8   flags; bit 0: a program that does not know the command may skip it
//	 2  u8   number of the command
//	 3  u8   version of its body
//	 4  i32  node of the sender
//	 8  u64  session of the sender; 0: outside of any session
//	16  u64  sequence of the command in its session
//	24  u64  the sender has the answers of all sequences below this one
//	32  u32  length of the body
//	36  ...  body
//	     u32  CRC32C of everything before
const (
	envelopeVersion = 1
	envelopeSize    = 36
	checksumSize    = 4
	flagIgnorable   = 1 << 0
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Origin says who sent a command, so that its second copy is recognised.
type Origin struct {
	// Node is the sender.
	Node NodeID
	// Session is drawn by the sender at process start and registered with
	// RegisterBroker; zero puts the command outside of any session, where it may
	// take effect once for each copy.
	Session uint64
	// Sequence numbers the commands of a session, from 1.
	Sequence uint64
	// Done is a promise of the sender: every sequence below was answered.
	Done uint64
}

// EncodeCommand is the command as an entry of the metadata log.
func EncodeCommand(o Origin, cmd Command) ([]byte, error) {
	return encode(o, cmd.number(), commands[cmd.number()].version, 0, cmd.fields)
}

func encode(o Origin, n number, version, flags uint8, body func(*coder)) ([]byte, error) {
	c := coder{buf: make([]byte, envelopeSize, 256), version: version}
	body(&c)
	if err := c.finish(); err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	b := c.buf
	if len(b)+checksumSize > MaxCommand {
		return nil, fmt.Errorf("encode command: %d bytes, at most %d", len(b)+checksumSize, MaxCommand)
	}
	b[0], b[1], b[2], b[3] = envelopeVersion, flags, uint8(n), version
	binary.BigEndian.PutUint32(b[4:], uint32(o.Node))
	binary.BigEndian.PutUint64(b[8:], o.Session)
	binary.BigEndian.PutUint64(b[16:], o.Sequence)
	binary.BigEndian.PutUint64(b[24:], o.Done)
	binary.BigEndian.PutUint32(b[32:], uint32(len(b)-envelopeSize))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// DecodeCommand reads what EncodeCommand wrote. The error is ErrUnknownCommand
// or ErrCorrupt; with ErrUnknownCommand, ignorable tells whether to go on.
func DecodeCommand(b []byte) (o Origin, cmd Command, ignorable bool, err error) {
	if len(b) < envelopeSize+checksumSize || len(b) > MaxCommand {
		return o, nil, false, fmt.Errorf("decode command: %w: %d bytes", ErrCorrupt, len(b))
	}
	sum := len(b) - checksumSize
	if got := crc32.Checksum(b[:sum], castagnoli); got != binary.BigEndian.Uint32(b[sum:]) {
		return o, nil, false, fmt.Errorf("decode command: %w: checksum", ErrCorrupt)
	}
	if b[0] != envelopeVersion {
		return o, nil, false, fmt.Errorf("%w: envelope version %d", ErrUnknownCommand, b[0])
	}
	if n := binary.BigEndian.Uint32(b[32:]); int64(n) != int64(sum-envelopeSize) {
		return o, nil, false, fmt.Errorf("decode command: %w: body of %d bytes in %d", ErrCorrupt, n, sum-envelopeSize)
	}
	o = Origin{Node: NodeID(binary.BigEndian.Uint32(b[4:])), Session: binary.BigEndian.Uint64(b[8:]),
		Sequence: binary.BigEndian.Uint64(b[16:]), Done: binary.BigEndian.Uint64(b[24:])}
	row, known := commands[number(b[2])]
	if !known || b[3] < 1 || b[3] > row.version {
		return o, nil, b[1]&flagIgnorable != 0, fmt.Errorf("%w: command %d version %d", ErrUnknownCommand, b[2], b[3])
	}
	cmd = row.blank()
	c := coder{buf: b[envelopeSize:sum], decoding: true, version: b[3]}
	cmd.fields(&c)
	if err := c.finish(); err != nil {
		return o, nil, false, fmt.Errorf("decode command %d: %w", b[2], err)
	}
	return o, cmd, false, nil
}
