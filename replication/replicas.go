package replication

import (
	"sync"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// has reports whether the node has dealt with a group: it runs, or it failed.
func (h *Host) has(group transport.GroupID) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	_, runs := h.partitions[group]
	_, failed := h.failed[group]
	return runs || failed
}

func (h *Host) setFailed(group transport.GroupID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed[group] = err
}

// setUnmade notes why a replica could not be made; it is tried again. Nil: it was.
func (h *Host) setUnmade(group transport.GroupID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.unmade, group)
	if err != nil {
		h.unmade[group] = err
	}
}

// setPartition publishes a started replica and tells its peers.
func (h *Host) setPartition(p *Partition) {
	h.mu.Lock()
	h.partitions[p.group] = p
	h.mu.Unlock()
	h.retainer.tidy(p) // a crash may have left something to free
	h.tellPeers(p)
}

// tellPeers says "group up" to the other replicas' nodes, and campaigns if nobody
// needs to be asked.
func (h *Host) tellPeers(p *Partition) {
	p.standForElection()
	for _, r := range p.assigned() {
		if link := h.linkTo(r.Node); link != nil {
			link.up(p.group)
		}
	}
}

// failedReplicas are the groups of replicas that could not be opened.
func (h *Host) failedReplicas() []transport.GroupID {
	h.mu.RLock()
	defer h.mu.RUnlock()
	groups := make([]transport.GroupID, 0, len(h.failed))
	for g := range h.failed {
		groups = append(groups, g)
	}
	return groups
}

func (h *Host) dropPartition(group transport.GroupID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.partitions, group)
}

// forget drops what is known of a deleted group.
func (h *Host) forget(group transport.GroupID) {
	h.mu.Lock()
	delete(h.failed, group)
	delete(h.unmade, group)
	h.mu.Unlock()
	h.leaders.forget(group)
}

func (h *Host) allPartitions() []*Partition {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*Partition, 0, len(h.partitions))
	for _, p := range h.partitions {
		all = append(all, p)
	}
	return all
}

func (h *Host) partitionsOf(id segment.TopicID) []*Partition {
	var of []*Partition
	for _, p := range h.allPartitions() {
		if p.group.Topic == id {
			of = append(of, p)
		}
	}
	return of
}

// partitionConfig binds a replica to this node.
func (h *Host) partitionConfig(a assignment, l *log.Log) partitionConfig {
	return partitionConfig{
		group:     a.group(),
		topic:     a.topic.Name,
		local:     transport.ServerID(a.replica.Node, a.replica.Incarnation),
		replicas:  a.topic.Partitions[a.partition].Members(),
		opened:    l,
		options:   h.logOptions(a),
		stable:    h.votes.Group(a.group()),
		timings:   h.config.Timings.withDefaults(),
		disk:      h.disk,
		logger:    h.logger,
		fatal:     h.fatal,
		announce:  h.announce,
		network:   h.mux,
		intake:    h.seedsIn,
		patience:  orDefault(h.config.RetentionWait, defaultRetentionWait),
		register:  h.router.Register,
		up:        h.mux.Up,
		restarted: h.tellPeers,
		tidy:      h.retainer.tidy,
	}
}

// facade makes the transport of one raft instance on a log of the partition.
func (p *Partition) facade(l *log.Log) (*transport.Facade, error) {
	return transport.NewFacade(transport.FacadeConfig{
		Group: p.group, LocalID: p.local, Network: p.network, Source: frames{l}, LastKnownCommitted: l.Applied,
		Base: func() segment.Index { return l.FirstIndex() - 1 }, OnCommitted: l.NoteCommitted, Seed: p.seed, HeartbeatTick: p.timings.heartbeatTick(), Logger: p.logger,
	})
}

// followPeers keeps a link to every other broker, learns their addresses, and
// tells those that come back everything they may have missed.
func (h *Host) followPeers() {
	defer h.workers.Done()
	changed := make(chan struct{}, 1)
	defer h.meta.Watch(changed)()
	peers := make(chan struct{}, 1)
	defer h.mux.WatchPeers(peers)()
	up := map[metadata.NodeID]bool{}
	for {
		h.makeLinks(h.meta.View())
		for _, link := range h.allLinks() {
			now := h.mux.Up(link.peer)
			if now != up[link.peer] {
				h.peerChanged(link, now)
			}
			up[link.peer] = now
		}
		select {
		case <-h.stop:
			return
		case <-changed:
		case <-peers:
		}
	}
}

// makeLinks starts a link for each broker that has none.
func (h *Host) makeLinks(view *metadata.View) {
	for broker := range view.Brokers() {
		if broker.Node == h.node.ID() {
			continue
		}
		h.mux.SetAddress(broker.Node, broker.RPCAddress)
		h.mu.Lock()
		if h.links[broker.Node] == nil {
			link := newLink(h, broker.Node)
			h.links[broker.Node] = link
			h.workers.Add(1)
			go link.run()
		}
		h.mu.Unlock()
	}
}

func (h *Host) linkTo(node metadata.NodeID) *link {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.links[node]
}

func (h *Host) allLinks() []*link {
	h.mu.RLock()
	defer h.mu.RUnlock()
	links := make([]*link, 0, len(h.links))
	for _, l := range h.links {
		links = append(links, l)
	}
	return links
}

// peerChanged acts on a broker that connected or went away.
func (h *Host) peerChanged(l *link, up bool) {
	h.logger.Info("peer", "node", l.peer, "up", up)
	for _, p := range h.allPartitions() {
		replica, shared := p.replicaOn(l.peer)
		if shared && up {
			l.up(p.group)
		}
		if shared && !up {
			p.peers.gone(transport.ServerID(replica.Node, replica.Incarnation))
		}
		if up {
			l.report(p.group)
		}
		if shared && p.Leadership().Ready {
			h.announce(p)
		}
	}
	h.notifyLeaders()
}

// replicaOn is the partition's replica on a node.
func (p *Partition) replicaOn(node metadata.NodeID) (metadata.Replica, bool) {
	for _, r := range p.assigned() {
		if r.Node == node {
			return r, true
		}
	}
	return metadata.Replica{}, false
}

// watchers are channels that are poked without waiting.
type watchers struct {
	mu  sync.Mutex
	all map[*chan<- struct{}]chan<- struct{}
}

func (w *watchers) add(ch chan<- struct{}) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*chan<- struct{}]chan<- struct{}{}
	}
	key := &ch
	w.all[key] = ch
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, key)
	}
}

func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.all {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
