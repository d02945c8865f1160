package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
)

// Network is what the facades need of the mux between the nodes; *Mux is one.
type Network interface {
	// Call sends a request to a node and waits for the answer, until ctx ends.
	// It fails at once with ErrPeerDown if the node is down, with
	// ErrConnectionLost if it goes down before the answer, with a *RemoteError if
	// the node answered with an error. The parts of the body are sent one after
	// the other without a copy, and when ctx ends they may be sent later, or be
	// under way: they must never be changed, whatever Call has returned.
	Call(ctx context.Context, node metadata.NodeID, class Class, method Method, body ...[]byte) ([]byte, error)
	// Up reports whether the node can be called now.
	Up(node metadata.NodeID) bool
}

// Source reads the frames of a partition's log for replication. Raft's own
// entries come without their bytes (DESIGN 4.1).
type Source interface {
	// ReadEntries returns the frames of up to count entries from first on, back to
	// back, whole, of at most maxBytes together unless the first alone is larger;
	// at least one entry, or an error. Index and term of each were checked after
	// the bytes were read, and nothing was cut meanwhile. The bytes are never changed
	// afterwards, by anybody: the network may still send them when the call is over.
	ReadEntries(first segment.Index, count, maxBytes int) (frames []byte, entries []EntryHeader, err error)
}

// EntryHeader describes one entry of Source.ReadEntries.
type EntryHeader struct {
	// Index is the entry's Raft index.
	Index segment.Index
	// Term is the entry's Raft term.
	Term segment.Term
	// Kind says what its frame is.
	Kind segment.Kind
	// Size is the length of its frame in bytes.
	Size int
}

// Instance is what a facade asks of the raft instance it serves; *raft.Raft is
// one. All methods may be called at any time and do not wait.
type Instance interface {
	// State is the role of the instance.
	State() raft.RaftState
	// CurrentTerm is the term it is in.
	CurrentTerm() uint64
	// CommitIndex is the last index it knows to be committed; 0 after a start.
	CommitIndex() uint64
	// AppliedIndex is the last index it handed to its state machine, or that of
	// the checkpoint it started from.
	AppliedIndex() uint64
	// LastIndex is the last index of its log.
	LastIndex() uint64
	// GetConfiguration is the latest configuration of the group, committed or not.
	GetConfiguration() raft.ConfigurationFuture
	// RegisterObserver adds an observer.
	RegisterObserver(*raft.Observer)
}

// FacadeConfig is what a facade needs to know.
type FacadeConfig struct {
	// Group is the raft group that the facade serves.
	Group GroupID
	// LocalID is this replica's server id, as ServerID makes it.
	LocalID raft.ServerID
	// Network carries the calls.
	Network Network
	// Source reads the frames of a partition's log. Nil for the metadata group,
	// whose entries carry their own data and whose snapshots are transferred.
	Source Source
	// MaxEntriesBytes bounds the entries of one AppendEntries, its first entry
	// excepted. Default 1 MiB.
	MaxEntriesBytes int
	// LastKnownCommitted is an index below which the log holds only committed
	// entries, beside what raft says: that of the checkpoint. May be nil.
	LastKnownCommitted func() segment.Index
	// Base is the entry before the first that the log still has, where those before
	// were removed because every member of the group holds them: a follower that
	// cannot say so itself is not asked for less. May be nil.
	Base func() segment.Index
	// OnCommitted is told, before the answer goes out, that a leader's request which
	// raft accepted proves everything up to index to be committed, and that this log
	// holds it. May be nil.
	OnCommitted func(index segment.Index)
	// OnMatch is told, in raft's replication goroutine, that a follower has
	// acknowledged everything up to index in this leader's term. May be nil.
	OnMatch func(follower raft.ServerID, index segment.Index)
	// Seed makes this replica of a partition hold everything up to a leader's S, and
	// returns once it does, or why it does not. It may close this facade on the way,
	// and then the leader asks the next one. Nil where snapshots are refused.
	Seed func(ctx context.Context, request SeedRequest) error
	// HeartbeatTick is how often heartbeats are sent: those of all groups together. It
	// must be short beside the time between two of them; 0 sends each at once.
	HeartbeatTick time.Duration
	// VoteTimeout bounds votes and campaign requests, which raft gives no time
	// limit. Default 5 s.
	VoteTimeout time.Duration
	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger
}

// Limits of a facade.
const (
	// defaultEntriesBytes is the default of FacadeConfig.MaxEntriesBytes.
	defaultEntriesBytes = 1 << 20
	// defaultVoteTimeout is the default of FacadeConfig.VoteTimeout.
	defaultVoteTimeout = 5 * time.Second
	// MaxSnapshotBytes bounds a snapshot of the metadata group: it travels as one
	// frame of the mux.
	MaxSnapshotBytes = segment.MaxFrameSize
)

// Errors of a facade. Test with errors.Is.
var (
	// ErrGroupClosed is a call on a facade that was closed or silenced.
	ErrGroupClosed = errors.New("transport of the raft group is closed")
	// ErrNotLeading is an AppendEntries of a term that this instance no longer
	// leads in.
	ErrNotLeading = errors.New("no longer the leader in the term of the request")
	// ErrPeerLeft is an AppendEntries to a replica that is no longer a member.
	ErrPeerLeft = errors.New("the replica has left the group")
	// ErrVotesWithheld is a vote, asked for or asked of us, or a campaign, while
	// the replica is on probation.
	ErrVotesWithheld = errors.New("votes are withheld while the replica is on probation")
	// ErrSnapshotRefused is an InstallSnapshot with content for a partition: replicas
	// are seeded, and not made of raft's snapshots, see DESIGN 4.5.
	ErrSnapshotRefused = errors.New("a partition takes no raft snapshots")
)

// Facade is the raft.Transport of one raft instance of one group, over the mux
// that all groups of the node share. It is used by one instance and closed with
// it; the next instance gets a new one. What it does beyond carrying requests,
// each because stock raft alone would lose something (letters as in DESIGN 4.3):
//
//	sending     reads the frames of a partition itself, and cuts a request to 1 MiB
//	            in place                                               append.go
//	            holds entries for a peer that is away (h)              hold.go
//	            tells idle followers of a commit (b)                   nudge.go
//	            remembers what followers acknowledged (d)              match.go
//	            waits for a follower that is seeded                    seed.go
//	            asks a majority whether it still leads (k)             confirm.go
//	receiving   verifies every frame, and fails the request            entries.go
//	            clamps the commit index (a), takes heartbeats through
//	            raft's main queue (b), says where the logs agree (j)   facade_receive.go
//	            has a partition seeded, and keeps the snapshot from
//	            raft                                                   seed.go
//	both        campaigns when asked to (e), withholds votes           campaign.go
//	            gives a term up whose leader's disk hangs (c)          resign.go
//	            ends its own group's calls when it is closed (g)       here
//
// raft calls it from many goroutines. It calls back into raft only through
// Instance's methods that do not wait, so it can be told things in raft's own
// goroutines.
type Facade struct {
	config   FacadeConfig
	consumer chan raft.RPC
	ctx      context.Context               // ends with Close and Silence
	cancel   context.CancelCauseFunc       // of ctx
	arriving atomic.Int32                  // requests handed to raft and not answered
	withheld atomic.Bool                   // WithholdVotes
	led      atomic.Pointer[raft.ServerID] // LastLeader
	bound    atomic.Pointer[Instance]
	work     sync.WaitGroup // goroutines of this facade

	confirming confirming

	mu       sync.Mutex // guards what follows; raft is never waited for under it
	isClosed bool
	onClose  func() // leaves the router
	replicas map[raft.ServerID]*replica
	reign    reign
	resigned uint64        // the last term of which Resign has ended the reign
	waiters  int           // calls in hold
	changed  chan struct{} // closed and replaced to wake them
	nudges   nudges
	offer    offer
}

// reign is the term for which raft sends entries now. Its context ends when the
// instance no longer leads in it.
type reign struct {
	term   uint64
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// replica is another member of the group as this facade knows it; guarded by Facade.mu, except
// for what never changes.
type replica struct {
	id   raft.ServerID   // never changes
	node metadata.NodeID // never changes

	announced uint64 // how often it said "group up"
	appending int    // AppendEntries to it that are under way; heartbeats do not count
	nudging   bool   // a nudge to it is under way
	// nudgesLost is how many were lost in a row.
	nudgesLost atomic.Int32
	progress   progress // in the term of the reign
}

// NewFacade makes the transport of one raft instance. It takes part once it is
// registered with a Router, and must be closed.
func NewFacade(config FacadeConfig) (*Facade, error) {
	if _, _, err := ParseServerID(config.LocalID); err != nil {
		return nil, fmt.Errorf("transport of %s: %w", config.Group, err)
	}
	if config.MaxEntriesBytes <= 0 {
		config.MaxEntriesBytes = defaultEntriesBytes
	}
	if config.VoteTimeout <= 0 {
		config.VoteTimeout = defaultVoteTimeout
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Facade{
		config:     config,
		consumer:   make(chan raft.RPC),
		ctx:        ctx,
		cancel:     cancel,
		confirming: confirming{slot: make(chan struct{}, 1)},
		replicas:   make(map[raft.ServerID]*replica),
		reign:      reign{ctx: ctx, cancel: func(error) {}},
		changed:    make(chan struct{}),
	}, nil
}

// Bind tells the facade its raft instance, right after raft.NewRaft has returned.
// From then on it follows changes of role and membership by itself.
func (f *Facade) Bind(instance Instance) {
	if !f.bound.CompareAndSwap(nil, &instance) {
		return
	}
	instance.RegisterObserver(raft.NewObserver(nil, false, f.observe))
	f.LeadershipChanged()
}

// observe is the filter of our observer. It runs in raft's own goroutine, right
// after the change; nothing is ever sent to the observer.
func (f *Facade) observe(o *raft.Observation) bool {
	switch data := o.Data.(type) {
	case raft.LeaderObservation:
		if data.LeaderID != "" {
			f.led.Store(&data.LeaderID)
		}
	case raft.RaftState, raft.PeerObservation:
		f.LeadershipChanged()
	}
	return false
}

// instance is the raft instance, nil before Bind.
func (f *Facade) instance() Instance {
	if bound := f.bound.Load(); bound != nil {
		return *bound
	}
	return nil
}

// Close fails all calls of this group, outstanding, held and new, leaves the
// router and joins the facade's goroutines. Raft calls it too, at the end of
// Shutdown().Error(), which before that waits for goroutines that sit in this
// facade's calls: so stop with f := Shutdown(); facade.Close(); f.Error(). It may
// be called more than once.
func (f *Facade) Close() error {
	f.Silence()
	f.mu.Lock()
	onClose := f.onClose
	f.onClose = nil
	f.mu.Unlock()
	if onClose != nil {
		onClose()
	}
	f.work.Wait()
	return nil
}

// Silence ends everything this group sends, and answers every request, those
// that raft has not answered yet included, as a group that is not here: the
// instance's last append failed, and nothing it votes or acknowledges may count.
// Peers hold their entries until the next instance says "group up". It does not
// wait for raft, whose main goroutine may be the caller.
func (f *Facade) Silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return
	}
	f.isClosed = true
	f.nudges.stop(&f.work)
	f.cancel(ErrGroupClosed)
}

// Group is the group that the facade serves.
func (f *Facade) Group() GroupID { return f.config.Group }

// Consumer implements raft.Transport: the channel of requests, heartbeats too.
func (f *Facade) Consumer() <-chan raft.RPC { return f.consumer }

// LocalAddr implements raft.Transport: the server id, see ServerID.
func (f *Facade) LocalAddr() raft.ServerAddress { return raft.ServerAddress(f.config.LocalID) }

// EncodePeer implements raft.Transport.
func (f *Facade) EncodePeer(_ raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(address)
}

// DecodePeer implements raft.Transport.
func (f *Facade) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport by ignoring the handler, which
// the interface allows: it changes term and state beside raft's main goroutine
// and lets a leader write entries in a term that it does not lead
// (hashicorp/raft #695). Heartbeats go through Consumer, like everything else.
func (f *Facade) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline implements raft.Transport: there is none. Raft's own
// sends one request a trigger, and what did not fit in it, which is most once
// requests are bounded by bytes, would wait for CommitTimeout.
func (f *Facade) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// RequestVote implements raft.Transport. It fails at once if the peer is down.
func (f *Facade) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	term, granted, err := f.askVote(id, MethodRaftVote, args.Term, args.LastLogIndex, args.LastLogTerm, args.LeadershipTransfer)
	if err != nil {
		return err
	}
	*resp = raft.RequestVoteResponse{RPCHeader: rpcHeader(id), Term: term, Granted: granted}
	return nil
}

// RequestPreVote implements raft.WithPreVote. It fails at once if the peer is
// down.
func (f *Facade) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	term, granted, err := f.askVote(id, MethodRaftPreVote, args.Term, args.LastLogIndex, args.LastLogTerm, false)
	if err != nil {
		// Not with the peer's text: raft takes any error that contains "unexpected
		// command" for a vote granted by an old server (raft.go, preElectSelf).
		return fmt.Errorf("pre-vote of %s failed: %w", id, opaque{err})
	}
	*resp = raft.RequestPreVoteResponse{RPCHeader: rpcHeader(id), Term: term, Granted: granted}
	return nil
}

// opaque is an error whose text is not what a peer wrote.
type opaque struct{ err error }

func (o opaque) Error() string {
	var remote *RemoteError
	if errors.As(o.err, &remote) {
		return fmt.Sprintf("peer answered with error code %d", remote.Code)
	}
	return o.err.Error()
}

func (o opaque) Unwrap() error { return o.err }

// askVote asks a peer for a vote or a pre-vote.
func (f *Facade) askVote(id raft.ServerID, method Method, term, lastIndex, lastTerm uint64, transfer bool) (uint64, bool, error) {
	if f.withheld.Load() {
		return 0, false, ErrVotesWithheld
	}
	body := encodeVote(f.envelope(id), term, lastIndex, lastTerm, transfer)
	reply, err := f.callSoon(context.Background(), id, method, body)
	if err != nil {
		return 0, false, fmt.Errorf("ask %s for a vote: %w", id, err)
	}
	if f.withheld.Load() { // since the question was asked
		return 0, false, ErrVotesWithheld
	}
	return decodeVoteReply(reply)
}

// envelope is the begin of a request to the replica.
func (f *Facade) envelope(target raft.ServerID) envelope {
	return envelope{group: f.config.Group, target: target, sender: f.config.LocalID}
}

// callSoon makes a call that is worth nothing later: at most VoteTimeout, and
// never held.
func (f *Facade) callSoon(ctx context.Context, id raft.ServerID, method Method, body []byte) ([]byte, error) {
	p, err := f.replica(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.config.VoteTimeout)
	defer cancel()
	stop := context.AfterFunc(f.ctx, cancel)
	defer stop()
	reply, err := f.config.Network.Call(ctx, p.node, Control, method, body)
	if err != nil && f.ctx.Err() != nil {
		return nil, ErrGroupClosed
	}
	return reply, err
}

// replica is what the facade knows of another replica. It fails once the facade is closed.
func (f *Facade) replica(id raft.ServerID) (*replica, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return nil, ErrGroupClosed
	}
	if p := f.replicas[id]; p != nil {
		return p, nil
	}
	node, _, err := ParseServerID(id)
	if err != nil {
		return nil, err
	}
	p := &replica{id: id, node: node}
	f.replicas[id] = p
	return p, nil
}

// InstallSnapshot implements raft.Transport. A partition's has no bytes, see
// askToSeed. The metadata group's goes as a whole, once the peer is up: a failed
// attempt would put raft to sleep for up to ten seconds.
func (f *Facade) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if f.config.Source != nil {
		return f.askToSeed(id, args, resp)
	}
	if args.Size < 0 || args.Size > MaxSnapshotBytes {
		return fmt.Errorf("snapshot of %d bytes, at most %d: %w", args.Size, MaxSnapshotBytes, ErrTooLarge)
	}
	p, err := f.replica(id)
	if err != nil {
		return err
	}
	ctx, err := f.lead(args.Term)
	if err != nil {
		return err
	}
	if _, err := f.hold(ctx, p, absence{}); err != nil {
		return fmt.Errorf("send snapshot to %s: %w", id, err)
	}
	snapshot := make([]byte, args.Size)
	if _, err := io.ReadFull(data, snapshot); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	reply, err := f.config.Network.Call(ctx, p.node, Seed, MethodRaftSnapshot, encodeSnapshot(f.envelope(id), args), snapshot)
	if err != nil {
		return fmt.Errorf("send snapshot to %s: %w", id, err)
	}
	return decodeSnapshotReply(reply, id, resp)
}
