package transport

import (
	"context"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// fakeRaft is an Instance whose state the test sets. It answers requests of its
// facade's consumer with answer.
type fakeRaft struct {
	mu      sync.Mutex
	state   raft.RaftState
	term    uint64
	commit  uint64
	applied uint64
	last    uint64
	servers []raft.Server
	// onTerm, if set, runs once after CurrentTerm was read.
	onTerm func(*fakeRaft)
}

// fakeFuture is a configuration that is known already.
type fakeFuture struct{ servers []raft.Server }

func (f fakeFuture) Error() error  { return nil }
func (f fakeFuture) Index() uint64 { return 1 }
func (f fakeFuture) Configuration() raft.Configuration {
	return raft.Configuration{Servers: f.servers}
}

// leading is an instance that leads in a term, with voters on nodes 1 to 3.
func leading(term, last uint64) *fakeRaft {
	return &fakeRaft{state: raft.Leader, term: term, last: last, servers: testConfiguration(3).Servers}
}

// change changes the instance as raft would, without telling anybody.
func (r *fakeRaft) change(f func(*fakeRaft)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// get reads something of the instance.
func get[T any](r *fakeRaft, f func() T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f()
}

func (r *fakeRaft) State() raft.RaftState { return get(r, func() raft.RaftState { return r.state }) }
func (r *fakeRaft) CommitIndex() uint64   { return get(r, func() uint64 { return r.commit }) }
func (r *fakeRaft) AppliedIndex() uint64  { return get(r, func() uint64 { return r.applied }) }
func (r *fakeRaft) LastIndex() uint64     { return get(r, func() uint64 { return r.last }) }

func (r *fakeRaft) CurrentTerm() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	term := r.term
	if f := r.onTerm; f != nil {
		r.onTerm = nil
		f(r)
	}
	return term
}

func (r *fakeRaft) GetConfiguration() raft.ConfigurationFuture {
	return get(r, func() raft.ConfigurationFuture { return fakeFuture{r.servers} })
}

func (r *fakeRaft) RegisterObserver(*raft.Observer) {}

// endpoint is a facade with its node, for tests of single requests.
type endpoint struct {
	*Facade
	node   *fakeNode
	router *Router
}

// newEndpoint makes the replica of a node; what config leaves out is filled in.
// It is closed at the end of the test.
func newEndpoint(t *testing.T, network *fakeNetwork, node metadata.NodeID, config FacadeConfig) *endpoint {
	t.Helper()
	server := network.node(node)
	config.Group, config.Network, config.Logger = testGroup, server, quiet
	if config.LocalID == "" {
		config.LocalID = testID(node)
	}
	f, err := NewFacade(config)
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{Facade: f, node: server, router: NewRouter(RouterConfig{Server: server})}
	if err := e.router.Register(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		e.router.Close()
	})
	return e
}

// answer makes a test's function raft's main goroutine, until the facade closes.
func (e *endpoint) answer(t *testing.T, f func(command any) any) {
	done := make(chan struct{})
	t.Cleanup(func() { e.Close(); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-e.Consumer():
				switch response := f(rpc.Command).(type) {
				case nil: // never answered
				case error:
					rpc.Respond(nil, response)
				default:
					rpc.Respond(response, nil)
				}
			case <-e.ctx.Done():
				return
			}
		}
	}()
}

// accepts answers every AppendEntries with success, as a follower in its term.
func accepts(command any) any {
	if a, ok := command.(*raft.AppendEntriesRequest); ok {
		return &raft.AppendEntriesResponse{Term: a.Term, Success: true, LastLog: a.PrevLogEntry + uint64(len(a.Entries))}
	}
	return nil
}

// appendTo sends an AppendEntries from one replica to another.
func (e *endpoint) appendTo(to metadata.NodeID, args *raft.AppendEntriesRequest) (raft.AppendEntriesResponse, error) {
	var resp raft.AppendEntriesResponse
	id := testID(to)
	err := e.AppendEntries(id, raft.ServerAddress(id), args, &resp)
	return resp, err
}

// entry is what raft knows of an entry without its bytes.
func entry(index, term uint64, t raft.LogType) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: t}
}

// filled is a log of n single-record frames of a term, after a configuration.
func filled(t *testing.T, term uint64, n int) *memLog {
	t.Helper()
	l := &memLog{}
	logs := []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(testConfiguration(3))}}
	for i := range n {
		e := fresh("value")
		e.Index, e.Term = uint64(i+2), term
		logs = append(logs, &e)
	}
	if err := l.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	return l
}

// entries are a log's entries as raft reads them for replication.
func (l *memLog) raftEntries(t *testing.T, from, to uint64) (entries []*raft.Log) {
	t.Helper()
	for i := from; i <= to; i++ {
		e := new(raft.Log)
		if err := l.GetLog(i, e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// call makes a raw request from one node to another's router.
func (e *endpoint) call(to metadata.NodeID, method Method, body ...[]byte) ([]byte, error) {
	return e.node.Call(context.Background(), to, Control, method, body...)
}

// sourceFunc is a Source.
type sourceFunc func(first segment.Index, count, maxBytes int) ([]byte, []EntryHeader, error)

func (f sourceFunc) ReadEntries(first segment.Index, count, maxBytes int) ([]byte, []EntryHeader, error) {
	return f(first, count, maxBytes)
}
