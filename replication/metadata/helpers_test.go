package metadata

import (
	"bytes"
	"errors"
	"testing"

	"github.com/millrace/millrace/segment"
)

// machine is a State with the next index of its log.
type machine struct {
	*testing.T
	*State
	index uint64
}

func newMachine(t *testing.T) *machine { return &machine{T: t, State: NewState()} }

// do applies a command outside of any session.
func (m *machine) do(cmd Command) Result {
	m.Helper()
	return m.from(Origin{}, cmd)
}

// from applies a command of a session.
func (m *machine) from(o Origin, cmd Command) Result {
	m.Helper()
	b, err := EncodeCommand(o, cmd)
	if err != nil {
		m.Fatal(err)
	}
	m.index++
	result, err := m.Apply(m.index, b)
	if err != nil {
		m.Fatal(err)
	}
	if got := m.View().Index(); got != m.index {
		m.Fatalf("view at index %d after applying %d", got, m.index)
	}
	return result
}

// want applies a command and requires its code.
func (m *machine) want(code Code, cmd Command) Result {
	m.Helper()
	result := m.do(cmd)
	if result.Code != code {
		m.Fatalf("%T: %v (%s), want %v", cmd, result.Code, result.Detail, code)
	}
	return result
}

// bytes is the whole state.
func (m *machine) bytes() []byte {
	m.Helper()
	var b bytes.Buffer
	if err := m.View().WriteSnapshot(&b); err != nil {
		m.Fatal(err)
	}
	return b.Bytes()
}

func topicID(n byte) segment.TopicID { return segment.TopicID{0: n, 15: 0xee} }

func register(n NodeID) *RegisterBroker {
	return &RegisterBroker{Node: n, Incarnation: Incarnation(0x1000 + uint64(n)), Start: 1, Session: 0x5000 + uint64(n),
		RPCAddress: "127.0.0.1:33145", KafkaAddress: "127.0.0.1:9092", Rack: "r1", Version: "0.1.0"}
}

func replica(n NodeID) Replica {
	return Replica{Node: n, Incarnation: 0x9000 + uint64(n), NodeIncarnation: Incarnation(0x1000 + uint64(n))}
}

func create(name string, id byte, nodes ...NodeID) *CreateTopic {
	var p Partition
	for _, n := range nodes {
		p.Replicas = append(p.Replicas, replica(n))
	}
	return &CreateTopic{Name: name, ID: topicID(id), Partitions: []Partition{p}}
}

// trio is a machine with a founded cluster of brokers 1, 2 and 3.
func trio(t *testing.T) *machine {
	m := newMachine(t)
	m.want(OK, &Found{ClusterID: "c1"})
	for n := NodeID(1); n <= 3; n++ {
		m.want(OK, register(n))
	}
	return m
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}
