package segment

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// Offset is a Kafka offset: the position of a record in its partition. Internal
// frames take none.
type Offset int64

// Index is a Raft log index, counted from 1.
type Index uint64

// Term is a Raft term. It is stored in the 32 bits of a batch's
// partitionLeaderEpoch, so a term above math.MaxInt32 is refused.
type Term uint64

// TopicID is a topic's identity (a random UUID); a topic that is deleted and
// created again under the same name has another one. The zero value is no topic.
type TopicID [16]byte

// ErrTopicID is returned by ParseTopicID for text that is not 32 hex digits.
var ErrTopicID = errors.New("segment: topic id is not 32 hexadecimal digits")

// NewTopicID draws a random version 4 UUID whose Kafka text form does not begin
// with '-' (tools take such an argument for a flag, KIP-516).
func NewTopicID() TopicID {
	for {
		var id TopicID
		rand.Read(id[:]) // never fails since Go 1.24
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if id.Kafka()[0] != '-' {
			return id
		}
	}
}

// String is the id as 32 hexadecimal digits, as folder names hold it.
func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// Kafka is the id as Kafka's tools print it: 22 characters of unpadded base64url.
func (id TopicID) Kafka() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// IsZero reports whether the id names no topic.
func (id TopicID) IsZero() bool { return id == TopicID{} }

// ParseTopicID reads what String wrote.
func ParseTopicID(text string) (TopicID, error) {
	var id TopicID
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%w: %q", ErrTopicID, text)
	}
	copy(id[:], b)
	return id, nil
}
