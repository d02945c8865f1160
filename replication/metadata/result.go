package metadata

import "fmt"

// Code says how a command ended. The numbers are stored in snapshots and sent
// between nodes: they never change, new ones are added at the end.
type Code uint8

// The codes of a Result.
const (
	// OK is a command that took effect, or whose effect was already there.
	OK Code = 0
	// Ignored is a command unknown here that its sender allowed to be skipped.
	Ignored Code = 1
	// Fenced is a command of a process that is not the registered one of its
	// node: it has not registered yet, or another has registered since.
	Fenced Code = 2
	// Expired is a late copy of a command whose sender has its answer.
	Expired Code = 3
	// Malformed is a command whose fields contradict each other.
	Malformed Code = 4
	// TopicExists is a topic of that name with another id.
	TopicExists Code = 5
	// UnknownTopic is an id that names no topic.
	UnknownTopic Code = 6
	// InvalidTopicName is a name that breaks Kafka's rules, or one that differs
	// from an existing topic's only in '.' and '_'.
	InvalidTopicName Code = 7
	// InvalidPartitions is a partition count out of range.
	InvalidPartitions Code = 8
	// InvalidReplicas is a replica list that is empty, has a node twice or names
	// no registered broker.
	InvalidReplicas Code = 9
	// StaleBroker is a replica meant for an incarnation that its broker no longer
	// has; the topic must be placed anew.
	StaleBroker Code = 10
	// OtherCluster is a cluster id that differs from the one there is.
	OtherCluster Code = 11
	// DuplicateNode is a broker whose node id belongs to another incarnation.
	DuplicateNode Code = 12
	// Retired is an incarnation that was replaced and must never come back.
	Retired Code = 13
	// RolledBack is a start counter below the registered one, or equal to it in
	// another process: an old copy of the disk.
	RolledBack Code = 14
	// BeingFounded is a topic before all founders of the cluster have joined.
	BeingFounded Code = 15
	// DrainedBroker is a new replica for a broker that is drained; the topic must be
	// placed anew.
	DrainedBroker Code = 16
	// UnknownBroker is a node id that no broker is registered with.
	UnknownBroker Code = 17
	// HoldsReplicas is a broker that cannot be unregistered, since it is to hold
	// replicas.
	HoldsReplicas Code = 18
	// AssignmentChanged is a change of a partition's replicas that was planned by
	// another picture of them; it must be planned anew.
	AssignmentChanged Code = 19
)

var codeNames = [...]string{"ok", "ignored", "fenced", "expired", "malformed", "topic exists", "unknown topic",
	"invalid topic name", "invalid partitions", "invalid replicas", "stale broker", "other cluster",
	"duplicate node id", "retired incarnation", "rolled-back disk", "the cluster is being founded",
	"drained broker", "unknown broker", "the broker holds replicas", "the replicas were changed"}

// String is the code in words.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Result is what a command answers, the same on every replica.
type Result struct {
	// Code is OK, Ignored or the reason of a refusal.
	Code Code
	// Detail explains a refusal in one line.
	Detail string
	// Index is where in the log the command took effect; a second copy of it
	// answers with the index of the first.
	Index uint64
	// StartTerm is, for CreateTopic, the term at which the groups start.
	StartTerm uint64
	// FirstID is, for AllocateProducerIDs, the first id of the block.
	FirstID int64
	// Count is, for AllocateProducerIDs, how many ids the block has.
	Count int32
}

// Err is nil for OK and Ignored, otherwise a *Refusal.
func (r Result) Err() error {
	if r.Code == OK || r.Code == Ignored {
		return nil
	}
	return &Refusal{Code: r.Code, Detail: r.Detail}
}

// Refusal is a Result that is no success, as an error.
type Refusal struct {
	// Code is the reason; never OK.
	Code Code
	// Detail explains it in one line.
	Detail string
}

// Error is the reason and its explanation.
func (e *Refusal) Error() string { return e.Code.String() + ": " + e.Detail }

func refuse(code Code, format string, args ...any) Result {
	return Result{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// resultSize is the least size of an encoded result.
const resultSize = 1 + 4 + 8 + 8 + 8 + 4

func codeResult(c *coder, r *Result) {
	code8(c, &r.Code)
	c.text(&r.Detail)
	code64(c, &r.Index)
	code64(c, &r.StartTerm)
	code64(c, &r.FirstID)
	code32(c, &r.Count)
}

// EncodeResult is the answer of a leader to the node that forwarded a command:
//
//	u8 code | u32 length, detail | u64 index | u64 start term | i64 first id | i32 count
func EncodeResult(r Result) []byte {
	if len(r.Detail) > MaxString {
		r.Detail = r.Detail[:MaxString]
	}
	c := coder{}
	codeResult(&c, &r)
	return c.buf
}

// DecodeResult reads what EncodeResult wrote; ErrCorrupt otherwise.
func DecodeResult(b []byte) (Result, error) {
	var r Result
	c := coder{buf: b, decoding: true}
	codeResult(&c, &r)
	if err := c.finish(); err != nil {
		return Result{}, fmt.Errorf("decode result: %w", err)
	}
	return r, nil
}
