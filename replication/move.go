package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Only the leader of a partition can give its leadership away, so any other node
// asks it to. A node gives one away at a time: each leaves its partition without a
// leader for a moment, and the clients of all others should not notice.

// Errors of moving a leadership: it is where it was, and the partition is served.
var (
	// ErrNoLeader: no ready leader is known, so nobody can hand anything over.
	ErrNoLeader = errors.New("the partition has no leader that is known here")
	// ErrNotInSync: the replica that should lead is down, or does not hold what was
	// acknowledged, or there is none on that node.
	ErrNotInSync = errors.New("the replica that should lead is not in sync")
	// ErrOtherLeader: the old leader gave way, and another replica than the one that
	// should was elected.
	ErrOtherLeader = errors.New("another replica was elected")
)

// moveTimeout bounds a request of another node, which may have given up since: it
// must not move anything when nobody waits for it any more.
const moveTimeout = 5 * time.Second

// The codes that a node answers MethodMoveLeader with.
const (
	codeNotLeader   = transport.FirstHostCode
	codeNotInSync   = transport.FirstHostCode + 1
	codeNoSuccessor = transport.FirstHostCode + 2
	codeStopping    = transport.FirstHostCode + 4
)

// moveCodes are the errors that keep their meaning on the way to another node.
var moveCodes = map[transport.Code]error{
	codeNotLeader: ErrNotLeader, codeNotInSync: ErrNotInSync, codeNoSuccessor: ErrNoSuccessor,
	codeStopping: ErrStopping,
}

// MoveLeader makes the replica on a node the leader of a partition, from any node:
// the present leader hands over, if the replica is in sync (see Transfer). It
// returns once this node has heard of the new leader. Nil at once if that replica
// leads already.
func (h *Host) MoveLeader(ctx context.Context, topic segment.TopicID, partition int32, to metadata.NodeID) error {
	group := transport.GroupID{Topic: topic, Partition: partition}
	info, known := h.Leader(topic, partition)
	var err error
	switch {
	case !known:
		return ErrNoLeader
	case info.Node == to:
		return nil
	case info.Node == h.node.ID():
		err = h.moveHere(ctx, group, to)
	default:
		_, err = h.mux.Call(ctx, info.Node, transport.Control, transport.MethodMoveLeader, encodeMove(group, to))
		err = moveError(err)
	}
	if err != nil {
		return fmt.Errorf("move leadership from node %d to node %d: %w", info.Node, to, err)
	}
	return h.awaitLeader(ctx, group, info.Term, to)
}

// moveHere hands over a leadership of this node.
func (h *Host) moveHere(ctx context.Context, group transport.GroupID, to metadata.NodeID) error {
	p, ok := h.Partition(group.Topic, group.Partition)
	if !ok || !p.Leadership().Ready {
		return ErrNotLeader
	}
	select {
	case h.moving <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-h.stop:
		return ErrClosed
	}
	defer func() { <-h.moving }()
	// A replica that is far behind would be waited for in vain, with the writes held.
	if to == h.node.ID() || !slices.Contains(p.inSync(h.mux.Up), to) {
		return ErrNotInSync
	}
	return p.Transfer(ctx, to, h.mux.Up)
}

// awaitLeader waits until this node knows a leader of a later term than the one that
// was to give way.
func (h *Host) awaitLeader(ctx context.Context, group transport.GroupID, after segment.Term, want metadata.NodeID) error {
	changed := make(chan struct{}, 1)
	defer h.WatchLeaders(changed)()
	for {
		info, known := h.Leader(group.Topic, group.Partition)
		switch {
		case known && info.Term > after && info.Node == want:
			return nil
		case known && info.Term > after:
			return fmt.Errorf("%w: node %d leads", ErrOtherLeader, info.Node)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for node %d to lead: %w", want, ctx.Err())
		case <-h.stop:
			return ErrClosed
		}
	}
}

// handleMoveLeader hands over a leadership of this node at a peer's request.
func (h *Host) handleMoveLeader(r *transport.Request) {
	group, to, err := decodeMove(r.Body)
	if err != nil {
		r.ReplyError(&transport.RemoteError{Code: transport.CodeBadRequest, Message: err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), moveTimeout)
	defer cancel()
	if err := h.moveHere(ctx, group, to); err != nil {
		r.ReplyError(moveRefusal(err))
		return
	}
	r.Reply()
}

// moveRefusal is an error of moveHere as it travels.
func moveRefusal(err error) error {
	for code, known := range moveCodes {
		if errors.Is(err, known) {
			return &transport.RemoteError{Code: code, Message: err.Error()}
		}
	}
	return err
}

// moveError is what moveRefusal was made of.
func moveError(err error) error {
	var remote *transport.RemoteError
	if errors.As(err, &remote) && moveCodes[remote.Code] != nil {
		return moveCodes[remote.Code]
	}
	return err
}

// A request to hand over, big-endian:
//
//	0   16  topic id
//	16   4  partition
//	20   4  node that is to lead
const moveSize = 24

func encodeMove(group transport.GroupID, to metadata.NodeID) []byte {
	b := append(make([]byte, 0, moveSize), group.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(group.Partition))
	return binary.BigEndian.AppendUint32(b, uint32(to))
}

func decodeMove(b []byte) (group transport.GroupID, to metadata.NodeID, err error) {
	if len(b) != moveSize {
		return group, 0, fmt.Errorf("a request to hand over of %d bytes, not %d", len(b), moveSize)
	}
	copy(group.Topic[:], b)
	group.Partition = int32(binary.BigEndian.Uint32(b[16:]))
	return group, metadata.NodeID(int32(binary.BigEndian.Uint32(b[20:]))), nil
}
