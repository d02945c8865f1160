package replication

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// Joining, each step durable before the next:
//
//	1 the cluster's leader has registered this node and its incarnation
//	2 empty DATA/metadata, named after node, incarnation and cluster
//	      until here node.json says "no member": the next start removes
//	      DATA/metadata and joins again, with the same incarnation. Raft has not
//	      run yet, so there is nothing that this disk could have forgotten.
//	3 node.json: cluster, member
//	4 raft runs; it says so, the leader takes it in without a vote, and gives it
//	  one, up to five, when it has caught up
//
// A member whose DATA/metadata is lost, or whose whole disk is an old copy, has
// forgotten votes and acknowledgements of its incarnation. It becomes another
// disk (becomeOther): that one may join its cluster, and found none.

// errOtherDisk is a disk that is not the one that the cluster knows by its
// incarnation.
var errOtherDisk = errors.New("this disk is not what the cluster knows it as")

// aliveTimeout is how long the leader waits for the present owner of a node id.
const aliveTimeout = time.Second

// hourly is how often a running node raises its start counter.
const hourly = time.Hour

// registration is this process as the metadata should have it.
func (m *MetaGroup) registration() *metadata.RegisterBroker {
	return &metadata.RegisterBroker{Node: m.node.ID(), Incarnation: m.node.Incarnation(), Start: m.node.Starts(), Session: m.process.Load(),
		RPCAddress: m.config.RPCAddress, KafkaAddress: m.config.KafkaAddress, Rack: m.config.Rack, Version: m.config.Version}
}

// openMember opens the stores of a member. It runs raft at once if this node has
// never seen another broker; else a peer is asked first, see askBeforeStart.
func (m *MetaGroup) openMember() (start, error) {
	stores, err := m.openStores()
	if errors.Is(err, errOtherDisk) {
		return start{lost: err}, nil
	}
	if err != nil {
		return start{}, err
	}
	if len(m.node.knownPeers()) > 0 {
		return start{stores: stores}, nil
	}
	return start{}, m.startInstance(stores)
}

// soleVoterWait is how long a node that is the only voter on its disk waits for
// an answer of the brokers that it has met.
const soleVoterWait = 3 * time.Second

// askBeforeStart asks the brokers that this node knew whether its disk is an old
// copy, before raft runs on it: an old copy would vote and acknowledge as if it
// remembered what it has lost. One answer of a member is enough; without any there
// is no quorum in any case, unless this node is the only voter. That one starts
// when all have answered that they are no members, or are silent for a while.
func (m *MetaGroup) askBeforeStart(stores MetaStores) error {
	defer m.waitNoMore()
	voters, err := m.storedVoters(stores)
	if err != nil {
		return err
	}
	m.stored.Store(&voters)
	own, began := m.node.Identity(), time.Now()
	alone := len(voters) == 1 && voters[0] == m.serverID()
	for pause := minAsk; ; pause = min(2*pause, maxAsk) {
		answers := m.ask(m.knownAddresses())
		silent := 0
		for _, a := range answers {
			if err := m.judgeOwn(a); err != nil {
				return err
			}
			if a.err == nil && a.peer.Cluster == own.Cluster && a.peer.Node != own.Node {
				return nil
			}
			if a.err != nil {
				silent++
			}
		}
		if alone && (silent == 0 || time.Since(began) > soleVoterWait) {
			return nil
		}
		m.waitFor("%s; no member answers: %s", m.quorum(), describe(answers))
		if err := m.pause(pause); err != nil {
			return err
		}
	}
}

// judgeOwn decides by a peer's answer whether this disk is an old copy. The start
// counter was raised on this disk before anything else, so an honest disk is
// above whatever was registered.
func (m *MetaGroup) judgeOwn(a answer) error {
	if err := m.retired(a.err); err != nil {
		return err
	}
	you := a.said.You
	switch {
	case a.err != nil || you == nil || a.peer.Cluster != m.node.ClusterID() || a.peer.Node == m.node.ID():
		return nil
	case you.Replaced:
		return fmt.Errorf("%w: incarnation %s was replaced", errOtherDisk, m.node.Incarnation())
	case metadata.Incarnation(you.Incarnation) == m.node.Incarnation() && you.Starts >= m.node.Starts():
		return fmt.Errorf("%w: node %d at %s has seen start %d of it, and this is start %d: the disk is an old copy", errOtherDisk, a.peer.Node, a.address, you.Starts, m.node.Starts())
	}
	return nil
}

// retired is errOtherDisk if a peer has refused this very incarnation as replaced.
// What it refused while this disk was another one, which an old status may still
// say, is no news of the present one.
func (m *MetaGroup) retired(err error) error {
	var refused *transport.RefusedError
	if errors.As(err, &refused) && refused.ByPeer && refused.Reason == transport.RefusedRetired && refused.Own.Incarnation == m.node.Incarnation() {
		return fmt.Errorf("%w: %s", errOtherDisk, refused.Text)
	}
	return nil
}

// describe lists what the addresses said.
func describe(answers []answer) string {
	var lines []string
	for _, a := range answers {
		if a.err != nil {
			lines = append(lines, fmt.Sprintf("%s (%s)", a.address, brief(a.err)))
		}
	}
	return strings.Join(lines, ", ")
}

// brief is an error in the words of what caused it, for a line that names the
// address and the occasion itself.
func brief(err error) string {
	var remote *transport.RemoteError
	var refused *transport.RefusedError
	var network *net.OpError
	switch {
	case errors.As(err, &remote):
		return remote.Message
	case errors.As(err, &refused):
		return refused.Text
	case errors.As(err, &network):
		return network.Err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return err.Error()
}

// joinVia asks members of the cluster, one after the other, to take this node in,
// and starts its instance when one has done it. false: not yet.
func (m *MetaGroup) joinVia(d decision) (bool, error) {
	command, err := metadata.EncodeCommand(metadata.Origin{}, m.registration())
	if err != nil {
		return false, err
	}
	trouble := d.trouble
	for _, member := range d.via {
		address := member.address
		ctx, cancel := context.WithTimeout(m.ctx, attemptTimeout+aliveTimeout)
		peer, reply, err := m.config.Mux.CallAddress(ctx, address, transport.MethodJoin, []byte{joinDirect}, command)
		cancel()
		var result metadata.Result
		if err == nil {
			result, err = metadata.DecodeResult(reply)
		}
		if err == nil && peer.Cluster != d.cluster {
			err = fmt.Errorf("it belongs to cluster %s now", peer.Cluster)
		}
		if err != nil {
			trouble = append(trouble, fmt.Sprintf("%s: %s", address, brief(err)))
			continue
		}
		if err := m.judgeResult(result); err != nil {
			return false, err
		}
		if result.Err() == nil {
			return true, m.becomeMember(d)
		}
		if result.Code == metadata.DuplicateNode { // says the leader, whoever was asked
			m.waitFor("%s", refusalText(result))
			return false, nil
		}
		trouble = append(trouble, fmt.Sprintf("%s: %s", address, refusalText(result)))
	}
	m.waitFor("joining cluster %s: %s", d.cluster, strings.Join(trouble, "; "))
	return false, nil
}

// refusalText is a refusal with what to do about it.
func refusalText(r metadata.Result) string {
	if r.Code == metadata.DuplicateNode {
		return r.Detail + ": give this broker another --node-id"
	}
	return r.Err().Error()
}

// judgeResult is errOtherDisk if a registration was refused for what the disk is.
func (m *MetaGroup) judgeResult(r metadata.Result) error {
	if r.Code == metadata.Retired || r.Code == metadata.RolledBack {
		return fmt.Errorf("%w: %s", errOtherDisk, r.Detail)
	}
	return nil
}

// becomeMember makes this node's empty part of the group and runs it.
func (m *MetaGroup) becomeMember(d decision) error {
	stores, err := m.createStores(d.cluster, 0)
	if err != nil {
		return err
	}
	var peers []peerEntry
	for _, a := range d.via {
		peers = append(peers, peerEntry{Node: a.peer.Node, Incarnation: a.peer.Incarnation, Address: a.address})
		m.config.Mux.SetAddress(a.peer.Node, a.address)
	}
	if err := m.node.becomeMember(d.cluster, peers); err != nil {
		return errors.Join(fmt.Errorf("join cluster %s: %w", d.cluster, err), stores.Close())
	}
	m.logger.Info("joined a cluster", "cluster", d.cluster, "node", m.node.ID(), "incarnation", m.node.Incarnation())
	return m.startInstance(stores)
}

// register makes this process known to the group and returns when this node's own
// view has it.
func (m *MetaGroup) register() error {
	defer m.waitNoMore()
	moved := make(chan struct{}, 1)
	defer m.leaders.add(moved)()
	for pause := minRetry; ; pause = min(2*pause, maxRetry) {
		result, err := m.registerOnce()
		if err == nil {
			if err := m.judgeResult(result); err != nil {
				return err
			}
			if result.Err() == nil && m.awaitOwn() == nil {
				return nil
			}
		}
		select {
		case r := <-m.replaced:
			if r.incarnation == m.node.Incarnation() {
				return r.err
			}
		default:
		}
		switch {
		case m.refusedAsReplaced(err) != nil:
			return m.refusedAsReplaced(err)
		case err == nil && result.Err() != nil:
			m.waitFor("registering with cluster %s: %s", m.node.ClusterID(), refusalText(result))
		case err != nil:
			m.waitFor("%s (%s)", m.quorum(), brief(err))
		}
		select {
		case <-time.After(pause):
		case <-moved:
		case <-m.ctx.Done():
			return m.ctx.Err()
		}
	}
}

func (m *MetaGroup) registerOnce() (metadata.Result, error) {
	command, err := metadata.EncodeCommand(metadata.Origin{}, m.registration())
	if err != nil {
		return metadata.Result{}, err
	}
	ctx, cancel := context.WithTimeout(m.ctx, attemptTimeout+aliveTimeout)
	defer cancel()
	return m.attempt(ctx, command)
}

// awaitOwn waits until the view has this process.
func (m *MetaGroup) awaitOwn() error {
	ctx, cancel := context.WithTimeout(m.ctx, attemptTimeout)
	defer cancel()
	return m.waitView(ctx, func(v *metadata.View) bool { return v.HasSession(m.node.ID(), m.process.Load()) })
}

// refusedAsReplaced is errOtherDisk if a peer's handshake refuses this incarnation
// as replaced: then nothing else can reach it, not even the registration.
func (m *MetaGroup) refusedAsReplaced(err error) error {
	causes := []error{err}
	for _, p := range m.node.knownPeers() {
		if status, ok := m.config.Mux.Status(p.Node); ok {
			causes = append(causes, status.Err)
		}
	}
	for _, cause := range causes {
		if err := m.retired(cause); err != nil {
			return err
		}
	}
	return nil
}

// raiseStartsHourly raises the start counter, first on the disk and then in the
// metadata, so that a copy of the disk that is older than an hour is recognised. An
// hour that is left out, for lack of space, only makes that longer.
func (m *MetaGroup) raiseStartsHourly() {
	ticker := time.NewTicker(hourly)
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
		}
		err := m.node.RaiseStarts()
		if err != nil && mayPass(err) {
			m.logger.Warn("the start counter was not raised", "err", err)
			continue
		}
		if err != nil {
			m.config.Fatal(fmt.Errorf("metadata group: %w", err))
			return
		}
		if result, err := m.registerOnce(); err != nil || result.Err() != nil {
			m.logger.Debug("hourly registration", "err", errors.Join(err, result.Err()))
		}
	}
}

// becomeOther makes this disk another one: what it has of the metadata group is
// set aside, then a new incarnation is drawn. A crash in between leaves a member
// without DATA/metadata, which comes here again.
func (m *MetaGroup) becomeOther() error {
	if err := m.stopInstance(); err != nil {
		m.logger.Debug("stop the metadata group", "err", err)
	}
	if err := m.setAside(); err != nil {
		return fmt.Errorf("set the metadata folder aside: %w", err)
	}
	m.process.Store(newSession())
	return m.node.reincarnate()
}

// setAside moves DATA/metadata to DATA/quarantine; nothing is deleted.
func (m *MetaGroup) setAside() error {
	fsys := m.config.FS
	if _, err := fsys.Stat(m.config.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	quarantine := filepath.Join(m.dataDir(), "quarantine")
	if err := fsys.MkdirAll(quarantine); err != nil {
		return err
	}
	name := fmt.Sprintf("metadata-%s-%d", m.node.Incarnation(), m.node.Starts())
	if err := fsys.Rename(m.config.Dir, filepath.Join(quarantine, name)); err != nil {
		return err
	}
	if err := fsys.SyncDir(quarantine); err != nil {
		return err
	}
	return fsys.SyncDir(m.dataDir())
}

// The first byte of a request to be taken in: whether a member has passed it on.
const (
	joinDirect  = 0
	joinRelayed = 1
)

// handleJoin answers a node that wants to be taken in, or a member that passes
// its request on to the leader.
func (m *MetaGroup) handleJoin(r *transport.Request) {
	m.serve(r, func(ctx context.Context, body []byte) ([]byte, error) { return m.joinHere(ctx, r.Peer, body) })
}

func (m *MetaGroup) joinHere(ctx context.Context, peer transport.Peer, body []byte) ([]byte, error) {
	if len(body) < 1 || body[0] > joinRelayed {
		return nil, &transport.RemoteError{Code: transport.CodeBadRequest, Message: "a malformed request to join"}
	}
	relayed, command := body[0] == joinRelayed, body[1:]
	_, cmd, _, err := metadata.DecodeCommand(command)
	newcomer, ok := cmd.(*metadata.RegisterBroker)
	switch {
	case err != nil || !ok:
		return nil, &transport.RemoteError{Code: transport.CodeBadRequest, Message: "a request to join that registers no broker"}
	case !relayed && (newcomer.Node != peer.Node || newcomer.Incarnation != peer.Incarnation):
		return nil, &transport.RemoteError{Code: transport.CodeBadRequest, Message: fmt.Sprintf("node %d asks to take node %d in", peer.Node, newcomer.Node)}
	}
	leader, known := m.liveLeader()
	switch {
	case !known:
		return nil, m.notLeader()
	case leader == m.node.ID():
		return m.changeFrom(ctx, transport.Peer{Node: newcomer.Node, Incarnation: newcomer.Incarnation}, command)
	case relayed:
		return nil, m.notLeader()
	}
	return m.config.Mux.Call(ctx, leader, transport.Control, transport.MethodJoin, []byte{joinRelayed}, command)
}

// admit registers a broker, as the leader. An incarnation that is new for its
// node id takes that over only if the present owner is dead: not connected to
// this node, and not at its address. A wiped disk's broker answers at the address
// of its former self, as somebody else.
func (m *MetaGroup) admit(ctx context.Context, in *metaInstance, r *metadata.RegisterBroker) ([]byte, error) {
	r.Replaces = 0
	if owner, ok := m.View().Broker(r.Node); ok && owner.Incarnation != r.Incarnation {
		if m.alive(ctx, owner) {
			return metadata.EncodeResult(metadata.Result{Code: metadata.DuplicateNode,
				Detail: fmt.Sprintf("node id %d belongs to the running broker at %s", r.Node, owner.RPCAddress)}), nil
		}
		r.Replaces = owner.Incarnation
	}
	command, err := metadata.EncodeCommand(metadata.Origin{}, r)
	if err != nil {
		return nil, err
	}
	result, err := m.apply(ctx, in, command)
	if err != nil {
		return nil, err
	}
	return metadata.EncodeResult(result), nil
}

// alive reports whether this incarnation of a broker runs.
func (m *MetaGroup) alive(ctx context.Context, b *metadata.Broker) bool {
	if b.Node == m.node.ID() || m.answers(brokerID(b)) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	own, err := m.introduction(b.Node, b.Incarnation)
	if err != nil {
		return false
	}
	// The handshake alone tells; a refusal is an answer too.
	peer, _, _ := m.config.Mux.CallAddress(ctx, b.RPCAddress, transport.MethodFounding, own)
	return peer.Node == b.Node && peer.Incarnation == b.Incarnation
}
