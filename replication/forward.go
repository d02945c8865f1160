package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// ErrControllerResigned is a change that was given to a node which led the metadata
// group and gave that up, because its disk hangs. Another node should be asked: this
// one does not hear who leads now. What it had may yet take effect, as with a leader
// of Kafka's controllers that resigns.
var ErrControllerResigned = errors.New("this node gave up leading the metadata group: its disk hangs")

// ErrMetadataUnavailable is a change, or a read, that the metadata group did not
// answer in time. A change may have taken effect or may still do so, once.
var ErrMetadataUnavailable = errors.New("the metadata group did not answer in time")

// The codes that the metadata group answers requests with.
const (
	// codeNotMetaLeader: nothing was done; ask the leader.
	codeNotMetaLeader = transport.FirstMetaCode
	// codeNoMetaQuorum: nothing was done; there is no leader to ask.
	codeNoMetaQuorum = transport.FirstMetaCode + 1
	// codeMetaUnknown: the change may have taken effect; send it again.
	codeMetaUnknown = transport.FirstMetaCode + 2
)

const (
	// maxOpenCalls bounds the changes of this node that wait for their answer, and
	// with them what the group remembers of its session.
	maxOpenCalls = 256
	// attemptTimeout bounds one attempt of a change or a read: a leader that lost
	// its majority does not answer, and another may have been elected.
	attemptTimeout = 2 * time.Second
	// largeCommand is the size in bytes above which a command does not travel with
	// votes and heartbeats: a topic of thousands of partitions.
	largeCommand = 64 << 10
	// minRetry and maxRetry bound the pause between attempts.
	minRetry = 10 * time.Millisecond
	maxRetry = 250 * time.Millisecond
)

// callTable numbers the changes of this process.
type callTable struct {
	slots chan struct{} // maxOpenCalls of them
	mu    sync.Mutex
	last  uint64
	open  map[uint64]struct{}
}

func newCallTable() *callTable {
	return &callTable{slots: make(chan struct{}, maxOpenCalls), open: map[uint64]struct{}{}}
}

// begin takes a number, and tells below which all numbers have their answer.
func (t *callTable) begin(ctx context.Context) (sequence, done uint64, err error) {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.open[t.last] = struct{}{}
	done = t.last
	for n := range t.open {
		done = min(done, n)
	}
	return t.last, done, nil
}

func (t *callTable) end(sequence uint64) {
	t.mu.Lock()
	delete(t.open, sequence)
	t.mu.Unlock()
	<-t.slots
}

// Change makes a change of the metadata, from any node: it goes to the group's
// leader, again and again until that answers or ctx ends, and takes effect once.
// It returns after this node's own view has applied the index. A refusal is a
// *metadata.Refusal, and nothing was changed; ErrMetadataUnavailable leaves the
// outcome open, and so does ErrControllerResigned, which is said at once.
func (m *MetaGroup) Change(ctx context.Context, cmd metadata.Command) (metadata.Result, uint64, error) {
	var none metadata.Result
	registered := func(v *metadata.View) bool { return v.HasSession(m.node.ID(), m.process.Load()) }
	if err := m.waitView(ctx, registered); err != nil {
		return none, 0, fmt.Errorf("%w: this node is not registered: %w", ErrMetadataUnavailable, err)
	}
	sequence, done, err := m.calls.begin(ctx)
	if err != nil {
		return none, 0, fmt.Errorf("%w: %w", ErrMetadataUnavailable, err)
	}
	defer m.calls.end(sequence)
	origin := metadata.Origin{Node: m.node.ID(), Session: m.process.Load(), Sequence: sequence, Done: done}
	command, err := metadata.EncodeCommand(origin, cmd)
	if err != nil {
		return none, 0, err
	}
	result, err := m.changeUntil(ctx, command)
	if err != nil {
		return none, 0, err
	}
	if err := result.Err(); err != nil {
		return result, result.Index, err
	}
	if err := m.waitView(ctx, func(v *metadata.View) bool { return v.Index() >= result.Index }); err != nil {
		return result, result.Index, fmt.Errorf("%w: the change was made at index %d, which this node has not applied: %w", ErrMetadataUnavailable, result.Index, err)
	}
	return result, result.Index, nil
}

// changeUntil sends one command until it is answered, or this node has given up
// leading.
func (m *MetaGroup) changeUntil(ctx context.Context, command []byte) (result metadata.Result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = m.retry(ctx, func(once context.Context) error {
		result, err = m.attempt(once, command)
		if err != nil && m.hasResigned() {
			cancel()
			return ErrControllerResigned
		}
		return err
	})
	return result, err
}

// retry makes attempts until one succeeds, ctx ends or the group closes; a new
// leader is asked at once. Every error of an attempt is of a kind that may pass.
func (m *MetaGroup) retry(ctx context.Context, attempt func(context.Context) error) error {
	moved := make(chan struct{}, 1)
	defer m.leaders.add(moved)()
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		once, cancel := context.WithTimeout(ctx, attemptTimeout)
		stop := context.AfterFunc(m.ctx, cancel)
		err := attempt(once)
		stop()
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w (last: %w)", ErrMetadataUnavailable, ctx.Err(), err)
		case <-m.ctx.Done():
			return fmt.Errorf("%w: %w", ErrClosed, err)
		}
	}
}

// attempt sends a command to the leader, which may be this node.
func (m *MetaGroup) attempt(ctx context.Context, command []byte) (metadata.Result, error) {
	reply, err := m.askLeader(ctx, transport.MethodMetaChange, command, m.changeHere)
	if err != nil {
		return metadata.Result{}, err
	}
	return metadata.DecodeResult(reply)
}

// askLeader gets the answer of the group's leader: by here if this node is it.
func (m *MetaGroup) askLeader(ctx context.Context, method transport.Method, body []byte, here func(context.Context, []byte) ([]byte, error)) ([]byte, error) {
	node, known := m.liveLeader()
	switch {
	case !known && m.hasResigned():
		return nil, ErrControllerResigned
	case !known:
		return nil, errNoMetaLeader
	case node == m.node.ID():
		return here(ctx, body)
	}
	class := transport.Control
	if len(body) > largeCommand {
		class = transport.Bulk
	}
	return m.config.Mux.Call(ctx, node, class, method, body)
}

// changeHere takes a command of this node as the leader and returns its encoded
// result.
func (m *MetaGroup) changeHere(ctx context.Context, command []byte) ([]byte, error) {
	return m.changeFrom(ctx, m.node.Identity(), command)
}

// changeFrom takes a command of a node, named as by its handshake.
func (m *MetaGroup) changeFrom(ctx context.Context, sender transport.Peer, command []byte) ([]byte, error) {
	in := m.current()
	if in == nil || !in.leads() {
		return nil, m.notLeader()
	}
	// What cannot be decoded must not enter the log: it would stop every node.
	origin, cmd, _, err := metadata.DecodeCommand(command)
	if err == nil {
		err = checkSender(sender, origin, cmd)
	}
	if err != nil {
		return nil, &transport.RemoteError{Code: transport.CodeBadRequest, Message: err.Error()}
	}
	if registration, ok := cmd.(*metadata.RegisterBroker); ok {
		return m.admit(ctx, in, registration)
	}
	result, err := m.apply(ctx, in, command)
	if err != nil {
		return nil, err
	}
	return metadata.EncodeResult(result), nil
}

// checkSender refuses what a node does not say of itself: the answers of another
// node's session, another's registration, that another has removed its replicas.
func checkSender(sender transport.Peer, origin metadata.Origin, cmd metadata.Command) error {
	about := origin.Node
	switch c := cmd.(type) {
	case *metadata.Found:
		return fmt.Errorf("node %d sends the founding of cluster %s, which only its first leader writes", sender.Node, c.ClusterID)
	case *metadata.RegisterBroker:
		if c.Node != sender.Node || c.Incarnation != sender.Incarnation {
			return fmt.Errorf("node %d (incarnation %s) registers node %d (incarnation %s)", sender.Node, sender.Incarnation, c.Node, c.Incarnation)
		}
		if origin != (metadata.Origin{}) {
			return fmt.Errorf("node %d registers in session %d of node %d: a registration belongs to none", sender.Node, origin.Session, origin.Node)
		}
		return nil
	case *metadata.ConfirmDelete:
		about = c.Node
	case *metadata.AllocateProducerIDs:
		about = c.Node
	}
	switch {
	case origin.Node != sender.Node:
		return fmt.Errorf("node %d sends a change (%T) of node %d", sender.Node, cmd, origin.Node)
	case about != sender.Node:
		return fmt.Errorf("node %d sends a change (%T) on behalf of node %d", sender.Node, cmd, about)
	case origin.Session == 0 || origin.Sequence == 0:
		return fmt.Errorf("node %d sends a change (%T) outside of any session: a second copy could not be told", sender.Node, cmd)
	}
	return nil
}

// apply puts a command into the log and waits until it is applied here.
func (m *MetaGroup) apply(ctx context.Context, in *metaInstance, command []byte) (metadata.Result, error) {
	var future raft.ApplyFuture
	err := in.awaitCall(ctx, func() error {
		future = in.raft.Apply(command, attemptTimeout)
		return future.Error()
	})
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return metadata.Result{}, m.notLeader()
	case err != nil:
		return metadata.Result{}, &transport.RemoteError{Code: codeMetaUnknown, Message: "metadata change: " + err.Error()}
	}
	answer, ok := future.Response().(metaAnswer)
	if !ok {
		return metadata.Result{}, fmt.Errorf("metadata change: the state machine answered with a %T", future.Response())
	}
	return answer.result, answer.err
}

// notLeader is the answer of a node that cannot act as the leader.
func (m *MetaGroup) notLeader() error {
	if node, known := m.liveLeader(); known && node != m.node.ID() {
		return &transport.RemoteError{Code: codeNotMetaLeader, Message: fmt.Sprintf("node %d does not lead the metadata group, node %d does", m.node.ID(), node)}
	}
	return &transport.RemoteError{Code: codeNoMetaQuorum, Message: m.quorum()}
}

// quorum says in words which voters are there.
func (m *MetaGroup) quorum() string {
	var voters []raft.ServerID
	if in := m.current(); in != nil {
		voters = voterIDs(in.raft.GetConfiguration().Configuration().Servers)
		if m.hasResigned() {
			return fmt.Sprintf("%v (cluster %s)", ErrControllerResigned, m.node.ClusterID())
		}
	} else if stored := m.stored.Load(); stored != nil {
		voters = *stored
	}
	if len(voters) == 0 {
		return fmt.Sprintf("node %d is not yet a member of the metadata group of cluster %s", m.node.ID(), m.node.ClusterID())
	}
	var missing []string
	for _, id := range voters {
		if !m.answers(id) {
			missing = append(missing, m.describeVoter(id))
		}
	}
	up := len(voters) - len(missing)
	state := "no quorum"
	if up > len(voters)/2 {
		state = "no leader yet"
	}
	text := fmt.Sprintf("the metadata group of cluster %s has %s: %d of %d voters are up", m.node.ClusterID(), state, up, len(voters))
	if len(missing) > 0 {
		text += ", missing: " + strings.Join(missing, ", ")
	}
	return text
}

// describeVoter names a voter for people.
func (m *MetaGroup) describeVoter(id raft.ServerID) string {
	node, _, err := transport.ParseServerID(id)
	if err != nil {
		return string(id)
	}
	if status, ok := m.config.Mux.Status(node); ok {
		if status.Up {
			return fmt.Sprintf("node %d as %s (%s has another disk)", node, id, status.Address)
		}
		return fmt.Sprintf("node %d at %s", node, status.Address)
	}
	return fmt.Sprintf("node %d", node)
}

// CaughtUp returns once this node's view holds every change that was acknowledged
// before the call.
func (m *MetaGroup) CaughtUp(ctx context.Context) error {
	var index uint64
	err := m.retry(ctx, func(ctx context.Context) error {
		reply, err := m.askLeader(ctx, transport.MethodReadIndex, nil, m.readIndexHere)
		if err != nil {
			return err
		}
		if len(reply) != 8 {
			return fmt.Errorf("read index of %d bytes", len(reply))
		}
		index = binary.BigEndian.Uint64(reply)
		return nil
	})
	if err != nil {
		return err
	}
	return m.waitView(ctx, func(v *metadata.View) bool { return v.Index() >= index })
}

// readIndexHere answers with the index of the leader's view (Raft thesis, section
// 6.4). A change is acknowledged only after its leader has applied it, and a
// leader that has passed its barrier has applied all of earlier terms; so the
// view holds every acknowledged change, if this node still led when it was read:
// that is what a majority confirms afterwards. raft's commit index would not do:
// entries that the state machine never sees move it too.
func (m *MetaGroup) readIndexHere(ctx context.Context, _ []byte) ([]byte, error) {
	in := m.current()
	if in == nil || !in.leads() {
		return nil, m.notLeader()
	}
	term := segment.Term(in.readyTerm.Load())
	index := m.View().Index()
	if err := in.facade.Confirm(ctx, term); err != nil || !in.leads() {
		return nil, m.notLeader()
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}

// serve answers a request with what answer returns.
func (m *MetaGroup) serve(r *transport.Request, answer func(context.Context, []byte) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), attemptTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	reply, err := answer(ctx, r.Body)
	if err != nil {
		r.ReplyError(err)
		return
	}
	r.Reply(reply)
}

// metaMethods are the methods that the metadata group answers.
func (m *MetaGroup) metaMethods() map[transport.Method]transport.Handler {
	return map[transport.Method]transport.Handler{
		transport.MethodFounding: m.handleIntroduction,
		transport.MethodJoin:     m.handleJoin,
		transport.MethodMetaChange: func(r *transport.Request) {
			m.serve(r, func(ctx context.Context, command []byte) ([]byte, error) { return m.changeFrom(ctx, r.Peer, command) })
		},
		transport.MethodReadIndex: func(r *transport.Request) { m.serve(r, m.readIndexHere) },
		transport.MethodQuorum:    func(r *transport.Request) { m.serve(r, m.quorumHere) },
	}
}

func (m *MetaGroup) handle() {
	for method, handler := range m.metaMethods() {
		m.config.Mux.Handle(method, handler)
	}
}

func (m *MetaGroup) unhandle() {
	for method := range m.metaMethods() {
		m.config.Mux.Handle(method, nil)
	}
}
