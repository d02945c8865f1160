//lint:file-ignore SA1019 raft reads Leader and Candidate where Addr is empty, so both are filled in.

package transport

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// TestEntriesAreCutInPlace: raft's own slice is cut to what was sent, so that its
// bookkeeping after the call (replication.go:231, updateLastAppended) is true.
func TestEntriesAreCutInPlace(t *testing.T) {
	log := filled(t, 1, 9)
	size := len(log.frame(2))
	for _, test := range []struct {
		name  string
		limit int
		want  int
	}{
		{"all fit", 100 * size, 9},
		{"some fit", 4*size + size/2, 4},
		{"exactly", 4 * size, 4},
		{"the first always", 1, 1},
	} {
		for _, source := range []Source{log, nil} {
			t.Run(test.name, func(t *testing.T) {
				var got []uint64
				network := newFakeNetwork(t)
				leader := newEndpoint(t, network, 1, FacadeConfig{Source: source, MaxEntriesBytes: test.limit})
				leader.Bind(leading(1, 10))
				follower := newEndpoint(t, network, 2, FacadeConfig{Source: source})
				follower.answer(t, func(command any) any {
					for _, e := range command.(*raft.AppendEntriesRequest).Entries {
						got = append(got, e.Index)
						if diff := cmp.Diff(log.frame(e.Index), e.Data); diff != "" {
							t.Errorf("entry %d:\n%s", e.Index, diff)
						}
					}
					return accepts(command)
				})
				entries := log.raftEntries(t, 2, 10)
				if source == nil {
					for _, e := range entries {
						e.Data = log.frame(e.Index)
					}
				}
				args := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, PrevLogTerm: 1, Entries: entries}
				if _, err := leader.appendTo(2, args); err != nil {
					t.Fatal(err)
				}
				if len(args.Entries) != test.want || len(got) != test.want {
					t.Fatalf("%d entries left to raft, %d sent, want %d", len(args.Entries), len(got), test.want)
				}
				if m := leader.Matches(1)[testID(2)]; m.Index != segment.Index(1+test.want) {
					t.Fatalf("match %d", m.Index)
				}
			})
		}
	}
}

// TestSourceIsNotBelieved: what the log read must be what raft asked for, or raft
// would take other entries for acknowledged.
func TestSourceIsNotBelieved(t *testing.T) {
	log := filled(t, 3, 3)
	for name, spoil := range map[string]func(frames []byte, h []EntryHeader) ([]byte, []EntryHeader, error){
		"another term":  func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { h[1].Term = 2; return b, h, nil },
		"another index": func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { h[0].Index++; return b, h, nil },
		"another kind": func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) {
			h[0].Kind = segment.KindNoop
			return b, h, nil
		},
		"too few bytes": func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { return b[1:], h, nil },
		"no entry":      func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { return nil, nil, nil },
		"too many":      func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { return b, append(h, h...), nil },
		"an error":      func(b []byte, h []EntryHeader) ([]byte, []EntryHeader, error) { return nil, nil, errors.New("cut") },
	} {
		t.Run(name, func(t *testing.T) {
			network := newFakeNetwork(t)
			source := sourceFunc(func(first segment.Index, count, maxBytes int) ([]byte, []EntryHeader, error) {
				b, h, err := log.ReadEntries(first, count, maxBytes)
				if err != nil {
					return nil, nil, err
				}
				return spoil(b, h)
			})
			leader := newEndpoint(t, network, 1, FacadeConfig{Source: source})
			leader.Bind(leading(3, 4))
			newEndpoint(t, network, 2, FacadeConfig{Source: log}).answer(t, func(command any) any {
				t.Error("the request was sent")
				return accepts(command)
			})
			args := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 1, PrevLogTerm: 1, Entries: log.raftEntries(t, 2, 4)}
			if _, err := leader.appendTo(2, args); err == nil || !strings.Contains(err.Error(), "read entries") {
				t.Fatalf("error %v", err)
			}
			if len(args.Entries) != 3 {
				t.Errorf("%d entries left after a failure", len(args.Entries))
			}
		})
	}
}

// TestEntriesFollowPrevious: indexes are implied on the wire, so entries that do
// not begin behind the previous one would arrive as others.
func TestEntriesFollowPrevious(t *testing.T) {
	log := filled(t, 3, 3)
	for _, source := range []Source{log, nil} {
		network := newFakeNetwork(t)
		leader := newEndpoint(t, network, 1, FacadeConfig{Source: source})
		leader.Bind(leading(3, 4))
		newEndpoint(t, network, 2, FacadeConfig{Source: source}).answer(t, func(command any) any {
			t.Error("the request was sent")
			return accepts(command)
		})
		args := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 1, PrevLogTerm: 1, Entries: log.raftEntries(t, 3, 4)}
		if _, err := leader.appendTo(2, args); err == nil {
			t.Error("accepted")
		}
	}
}

// TestNoPipeline: raft falls back to one request at a time without an error.
func TestNoPipeline(t *testing.T) {
	e := newEndpoint(t, newFakeNetwork(t), 1, FacadeConfig{})
	if _, err := e.AppendEntriesPipeline(testID(2), "x"); err != raft.ErrPipelineReplicationNotSupported {
		t.Fatalf("error %v; raft compares identity", err)
	}
}

// TestHeartbeatsTakeTheMainQueue (DESIGN 4.3 b): the handler that raft offers is
// never called.
func TestHeartbeatsTakeTheMainQueue(t *testing.T) {
	network := newFakeNetwork(t)
	leader := newEndpoint(t, network, 1, FacadeConfig{})
	leader.Bind(leading(5, 10))
	follower := newEndpoint(t, network, 2, FacadeConfig{})
	follower.SetHeartbeatHandler(func(raft.RPC) { t.Error("the heartbeat handler was called") })
	var got *raft.AppendEntriesRequest
	follower.answer(t, func(command any) any {
		got = command.(*raft.AppendEntriesRequest)
		return accepts(command)
	})
	id := testID(1)
	resp, err := leader.appendTo(2, &raft.AppendEntriesRequest{RPCHeader: rpcHeader(id), Term: 5, Leader: []byte(id)})
	if err != nil || !resp.Success {
		t.Fatal(resp, err)
	}
	want := &raft.AppendEntriesRequest{RPCHeader: rpcHeader(id), Term: 5, Leader: []byte(id)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if len(leader.Matches(5)) != 0 {
		t.Error("a heartbeat counted as an acknowledgement")
	}
}

// TestCallEndsWithLeadership (DESIGN 4.3 h): a call that a follower does not
// answer, and one that is held, end when this instance no longer leads, whether
// or not it leads again in a later term.
func TestCallEndsWithLeadership(t *testing.T) {
	for name, later := range map[string]func(*fakeRaft){
		"follower":             func(r *fakeRaft) { r.state = raft.Follower },
		"leader of later term": func(r *fakeRaft) { r.term++ },
	} {
		for _, up := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := newFakeNetwork(t)
					leader, instance := newEndpoint(t, network, 1, FacadeConfig{}), leading(5, 10)
					leader.Bind(instance)
					newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any { return nil })
					network.setLink(1, 2, up)
					done := make(chan error, 1)
					go func() {
						_, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 5})
						done <- err
					}()
					<-time.After(time.Hour)
					select {
					case err := <-done:
						t.Fatalf("the call ended: %v", err)
					default:
					}
					instance.change(later)
					leader.observe(&raft.Observation{Data: raft.Follower}) // as raft does
					if err := <-done; !errors.Is(err, ErrNotLeading) {
						t.Fatalf("error %v", err)
					}
					if _, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 5}); !errors.Is(err, ErrNotLeading) {
						t.Fatalf("a new call of the old term: %v", err)
					}
				})
			})
		}
	}
}

// TestRemoteErrorIsReturned: an error of the peer's raft is raft's to handle.
func TestRemoteErrorIsReturned(t *testing.T) {
	network := newFakeNetwork(t)
	leader := newEndpoint(t, network, 1, FacadeConfig{})
	leader.Bind(leading(5, 10))
	newEndpoint(t, network, 2, FacadeConfig{}).answer(t, func(any) any { return errors.New("disk on fire") })
	_, err := leader.appendTo(2, &raft.AppendEntriesRequest{Term: 5, PrevLogEntry: 3, PrevLogTerm: 5})
	var remote *RemoteError
	if !errors.As(err, &remote) || !strings.Contains(remote.Message, "disk on fire") {
		t.Fatalf("error %v", err)
	}
}
