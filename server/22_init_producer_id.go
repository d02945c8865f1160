package server

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// InitProducerId (key 22). Version 3 brings the producer's present id and epoch
// (KIP-360), 4 a code for fenced producers, 5 goes with KIP-890.
//
// An idempotent producer gets a new id each time it asks, with epoch 0. Its
// sequence numbers live in the partitions' logs. Transactional producers are
// refused: this version has no transaction coordinator.

// producerIDWait bounds the wait for a block of ids.
const producerIDWait = 15 * time.Second

func handleInitProducerID(ctx context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if body.TransactionalID != nil {
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code // see noTransactions
		return resp, nil
	}
	ctx, cancel := context.WithTimeout(ctx, producerIDWait)
	defer cancel()
	id, err := n.ids.next(ctx)
	if err != nil {
		// COORDINATOR_NOT_AVAILABLE makes every client ask again.
		n.logger.Warn("no producer id for a client", "client", r.client.remote, "err", err)
		resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
		return resp, nil
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp, nil
}

// producerIDs hands out producer ids from blocks that the metadata group gives to
// this broker. What is left of a block at a stop is skipped, never given twice.
type producerIDs struct {
	cluster cluster
	turn    chan struct{} // held while first and left are used
	first   int64
	left    int32
}

func newProducerIDs(c cluster) *producerIDs {
	return &producerIDs{cluster: c, turn: make(chan struct{}, 1)}
}

// next returns an id that nobody got before.
func (p *producerIDs) next(ctx context.Context) (int64, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { <-p.turn }()
	if p.left == 0 {
		result, err := p.cluster.Change(ctx, &metadata.AllocateProducerIDs{Node: p.cluster.Node(), Count: metadata.ProducerIDBlock})
		if err != nil {
			return 0, err
		}
		p.first, p.left = result.FirstID, result.Count
	}
	id := p.first
	p.first++
	p.left--
	return id, nil
}
