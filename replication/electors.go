package replication

import (
	"context"

	"github.com/millrace/millrace/replication/transport"
)

// electors are the replicas of this node as the failure detector sees them.
func (h *Host) electors(group *transport.GroupID) []elector {
	switch {
	case group == nil:
		partitions := h.allPartitions()
		all := make([]elector, 0, len(partitions)+1)
		for _, p := range partitions {
			all = append(all, p)
		}
		return append(all, h.meta)
	case *group == transport.GroupID{}:
		return []elector{h.meta}
	}
	if p, ok := h.Partition(group.Topic, group.Partition); ok {
		return []elector{p}
	}
	return nil
}

// standing implements elector.
func (p *Partition) standing() (standing, bool) {
	in := p.current()
	up, running := p.status()
	if in == nil || !running || !in.facade.MayVote() {
		return standing{}, false
	}
	return standing{up, voterIDs(in.raft.GetConfiguration().Configuration().Servers), in.facade.LastLeader()}, true
}

// stand implements elector.
func (p *Partition) stand(begun func()) {
	if in := p.current(); in == nil || !p.startCampaign(in, begun) {
		begun()
	}
}

// standing implements elector. A node that is stopping does not stand, see
// campaignIfFirst.
func (m *MetaGroup) standing() (standing, bool) {
	m.mu.Lock()
	in, closed := m.instance, m.closed
	m.mu.Unlock()
	if in == nil || closed || !in.facade.MayVote() {
		return standing{}, false
	}
	up, err := in.up()
	if err != nil {
		return standing{}, false
	}
	return standing{up, voterIDs(in.raft.GetConfiguration().Configuration().Servers), in.facade.LastLeader()}, true
}

// stand implements elector.
func (m *MetaGroup) stand(begun func()) {
	in := m.current()
	if in == nil {
		begun()
		return
	}
	in.gate.Lock()
	defer in.gate.Unlock()
	if in.closing || !in.campaigning.CompareAndSwap(false, true) {
		begun()
		return
	}
	in.work.Go(func() {
		defer begun()
		defer in.campaigning.Store(false)
		m.campaign(in)
	})
}

// campaign asks raft for an election and returns when it has begun.
func (m *MetaGroup) campaign(in *metaInstance) {
	ctx, cancel := context.WithTimeout(m.ctx, campaignTimeout)
	defer cancel()
	if err := in.facade.Campaign(ctx); err != nil {
		m.logger.Debug("no election of the metadata leader started", "err", err)
	}
}
