package replication

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
)

// Founding (DESIGN 5 and 10). A node with an empty disk asks every address of its
// list, its own included, again and again:
//
//   - somebody belongs to a cluster: it joins that one, and never founds another;
//   - every address answers, all are empty, with distinct ids and the same list:
//     the lowest id founds the cluster alone, the others then see it and join;
//   - otherwise it waits, and says every 5 s what is missing or differs.
//
// So a founder that lost its disk meets its cluster and joins it, and two of
// three that lost theirs meet the third and wait for a quorum that will not come.
//
// The founder's steps, each durable before the next, and what a crash leaves:
//
//	1 empty DATA/metadata, named after node, incarnation and cluster
//	2 its log with one entry: this node is the only voter
//	      until here node.json says "member of nothing": the next start removes
//	      DATA/metadata and asks everybody again. Nobody has seen the cluster id.
//	3 node.json: cluster, member
//	      from here the next start is that of a member: the only voter elects
//	      itself, and as leader writes the cluster id as the first command, if
//	      that is not in the log yet. Only now do handshakes carry the id.
//	4 raft runs; Found is applied; the others are let in.
//
// Found also says how many the founders are, which is kept with the name of
// DATA/metadata until then. Until as many have registered and vote the cluster is
// being founded (metadata.View.Founding): nobody is ready, and no topic gets fewer
// replicas for good because its creation came before the second broker. Then the
// leader ends that with a command of its own (endFounding).

// answer is what came back from one address.
type answer struct {
	address string
	peer    transport.Peer // who it is, as far as the handshake got; may be known with an error too
	said    introduction
	err     error
}

// decision is what a node with an empty disk does next.
type decision struct {
	found   bool     // found the cluster
	count   int      // of its founders
	cluster string   // join this cluster
	via     []answer // members of it
	trouble []string // or wait, for these reasons
}

// decide is the rule above, as a pure function. without is an address that need
// not answer, empty for none.
func decide(self transport.Identity, list []string, without string, answers []answer) decision {
	if d, ok := decideJoin(self, answers); ok {
		return d
	}
	if self.Cluster != "" {
		return decision{trouble: []string{fmt.Sprintf("no broker of cluster %s answers at %s", self.Cluster, strings.Join(list, ", "))}}
	}
	var trouble []string
	ids := map[metadata.NodeID]answer{}
	met := false
	for _, a := range answers {
		if a.err == nil && a.peer == self {
			met = true
		}
		if problem := judgeFounder(self, list, without, a, ids); problem != "" {
			trouble = append(trouble, problem)
		}
	}
	if !met {
		trouble = append(trouble, "none of the --join addresses is this node itself (node "+fmt.Sprint(self.Node)+"): the list must hold its own --rpc-addr or --rpc-advertise")
	}
	if len(trouble) > 0 {
		return decision{trouble: trouble}
	}
	lowest := self.Node
	for id := range ids {
		lowest = min(lowest, id)
	}
	if lowest == self.Node {
		return decision{found: true, count: len(ids)}
	}
	return decision{trouble: []string{fmt.Sprintf("node %d at %s founds the cluster", lowest, ids[lowest].address)}}
}

// decideJoin looks for a cluster among the answers, refused ones included.
func decideJoin(self transport.Identity, answers []answer) (decision, bool) {
	var d decision
	for _, a := range answers {
		cluster := a.peer.Cluster
		if cluster == "" || a.peer.Node == self.Node && a.peer.Incarnation == self.Incarnation {
			continue
		}
		if self.Cluster != "" && cluster != self.Cluster {
			d.trouble = append(d.trouble, fmt.Sprintf("node %d at %s belongs to cluster %s, this node to cluster %s", a.peer.Node, a.address, cluster, self.Cluster))
			continue
		}
		if d.cluster != "" && d.cluster != cluster {
			return decision{trouble: []string{fmt.Sprintf("%s belongs to cluster %s, another address of --join to cluster %s", a.address, cluster, d.cluster)}}, true
		}
		d.cluster = cluster
		switch {
		case a.err != nil:
			d.trouble = append(d.trouble, fmt.Sprintf("%s: %s", a.address, brief(a.err)))
		case a.said.Member:
			d.via = append(d.via, a)
		}
	}
	if d.cluster == "" {
		return decision{trouble: d.trouble}, len(d.trouble) > 0
	}
	if len(d.via) == 0 {
		d.trouble = append(d.trouble, fmt.Sprintf("no member of cluster %s lets this node ask", d.cluster))
		d.cluster = ""
	}
	return d, true
}

// judgeFounder says what speaks against founding with the node that gave this
// answer, and enters its id.
func judgeFounder(self transport.Identity, list []string, without string, a answer, ids map[metadata.NodeID]answer) string {
	if a.err != nil {
		var refused *transport.RefusedError
		if errors.As(a.err, &refused) {
			return fmt.Sprintf("%s: %s", a.address, refused.Text)
		}
		if a.address == without {
			return ""
		}
		return fmt.Sprintf("%s does not answer (%s)", a.address, brief(a.err))
	}
	if a.peer != self && !slices.Equal(a.said.List, list) {
		return fmt.Sprintf("node %d at %s was started with --join %s, this node with --join %s", a.peer.Node, a.address, orNone(a.said.List), orNone(list))
	}
	if other, taken := ids[a.peer.Node]; taken && other.peer != a.peer {
		return fmt.Sprintf("%s and %s both have the node id %d: give one of them another --node-id", other.address, a.address, a.peer.Node)
	}
	ids[a.peer.Node] = a
	return ""
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "(none)"
	}
	return strings.Join(list, ",")
}

// normalize sorts a list of addresses and drops doubles: the order in which they
// are written says nothing.
func normalize(list []string) []string {
	var clean []string
	for _, address := range list {
		if address = strings.TrimSpace(address); address != "" {
			clean = append(clean, address)
		}
	}
	slices.Sort(clean)
	return slices.Compact(clean)
}

const (
	// minAsk and maxAsk bound the pause between two rounds of asking.
	minAsk = 50 * time.Millisecond
	maxAsk = 250 * time.Millisecond
)

// enter brings a node that is no member into a cluster: its own, if it is to
// found one. It returns when this node's instance runs.
func (m *MetaGroup) enter() error {
	defer m.waitNoMore()
	for pause := minAsk; ; pause = min(2*pause, maxAsk) {
		d := decide(m.node.Identity(), m.config.Join, m.config.FoundWithout, m.ask(m.knownAddresses()))
		if m.ctx.Err() != nil {
			return m.ctx.Err()
		}
		switch {
		case d.found:
			return m.found(d.count)
		case d.cluster != "":
			joined, err := m.joinVia(d)
			if joined || err != nil {
				return err
			}
		default:
			m.waitFor("%s", strings.Join(d.trouble, "; "))
		}
		if err := m.pause(pause); err != nil {
			return err
		}
	}
}

// maxVisitors bounds the nodes that are remembered.
const maxVisitors = 1024

// visited ends the pause between two rounds of asking when a node introduces
// itself for the first time: it may be the one that was missing. Only the first
// time, or two nodes would wake each other for ever.
func (m *MetaGroup) visited(by transport.Peer) {
	m.mu.Lock()
	news := !m.visitors[by] && len(m.visitors) < maxVisitors
	if news {
		m.visitors[by] = true
	}
	m.mu.Unlock()
	if !news {
		return
	}
	select {
	case m.asked <- struct{}{}:
	default:
	}
}

// pause waits before another round of asking.
func (m *MetaGroup) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-m.asked:
		return nil
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
}

// knownAddresses are those of the list, and of the brokers that a member met
// before.
func (m *MetaGroup) knownAddresses() []string {
	addresses := slices.Clone(m.config.Join)
	for _, p := range m.node.knownPeers() {
		addresses = append(addresses, p.Address)
	}
	return normalize(addresses)
}

// ask asks all addresses at once who they are.
func (m *MetaGroup) ask(addresses []string) []answer {
	answers := make([]answer, len(addresses))
	var work sync.WaitGroup
	for i, address := range addresses {
		work.Go(func() { answers[i] = m.askOne(address) })
	}
	work.Wait()
	return answers
}

func (m *MetaGroup) askOne(address string) answer {
	ctx, cancel := context.WithTimeout(m.ctx, introduceTimeout)
	defer cancel()
	a := answer{address: address}
	own, err := m.introduction(NoLeader, 0)
	if err != nil {
		a.err = err
		return a
	}
	var reply []byte
	a.peer, reply, a.err = m.config.Mux.CallAddress(ctx, address, transport.MethodFounding, own)
	if a.err != nil {
		return a
	}
	if a.said, a.err = decodeIntroduction(reply); a.err == nil {
		m.meet(a.peer, a.said)
	}
	return a
}

const (
	// minStrangerAsk and maxStrangerAsk bound the pause between two questions to a
	// listed address that has not answered a member yet.
	minStrangerAsk = 250 * time.Millisecond
	maxStrangerAsk = 10 * time.Second
)

// findStrangers looks for listed addresses that belong to another cluster than this
// node's folder, and says so once for each such cluster. The list serves a member
// to find its peers only, so a node that is complete without them would serve its
// own cluster without a word, and who started it believes that it has joined the
// other. Each address is asked until it has answered: its broker may start later.
func (m *MetaGroup) findStrangers() {
	var (
		work sync.WaitGroup
		mu   sync.Mutex
		said = map[string]bool{} // by cluster id
	)
	for _, address := range m.config.Join {
		work.Go(func() {
			cluster := m.clusterAt(address)
			mu.Lock()
			defer mu.Unlock()
			if cluster == "" || cluster == m.node.ClusterID() || said[cluster] {
				return
			}
			said[cluster] = true
			m.logger.Error("a --join address belongs to another cluster; this node stays in the one of its data folder: correct --join, or start with an empty --data-dir to join the other",
				"address", address, "its_cluster", cluster, "own_cluster", m.node.ClusterID(), "data_dir", m.dataDir())
		})
	}
	work.Wait()
}

// clusterAt asks an address until it names its cluster, in a refusal if need be; empty
// if this node stops before. A broker that is in none yet may found another one a
// moment later.
func (m *MetaGroup) clusterAt(address string) string {
	for pause := minStrangerAsk; ; pause = min(2*pause, maxStrangerAsk) {
		if a := m.askOne(address); a.peer.Incarnation != 0 && a.peer.Cluster != "" {
			return a.peer.Cluster
		}
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return ""
		}
	}
}

// newClusterID draws a random cluster id, 22 characters like Kafka's.
func newClusterID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// found makes this node the first member of a new cluster of so many founders.
func (m *MetaGroup) found(founders int) error {
	cluster := newClusterID()
	stores, err := m.createStores(cluster, founders)
	if err != nil {
		return err
	}
	id := m.serverID()
	only := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)}}}
	err = raft.BootstrapCluster(m.metaRaftConfig(id), stores, stores, stores.Snapshots(), nil, only)
	if err == nil {
		err = m.node.becomeMember(cluster, nil)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("found a cluster: %w", err), stores.Close())
	}
	m.logger.Info("founded a cluster", "cluster", cluster, "node", m.node.ID(), "founders", founders)
	return m.startInstance(stores)
}

// doWithout ends the founding of a cluster that waits for a founder which will
// never come (--found-without), also where the others have joined already. Any
// broker may be told.
func (m *MetaGroup) doWithout() {
	registered := func(v *metadata.View) bool { return v.HasSession(m.node.ID(), m.process.Load()) }
	if m.waitView(m.ctx, registered) != nil {
		return
	}
	if _, founding := m.View().Founding(); !founding {
		return
	}
	_, _, err := m.Change(m.ctx, &metadata.FoundWithout{Founders: uint32(max(len(m.config.Join)-1, 1))})
	switch {
	case m.ctx.Err() != nil:
	case err != nil:
		m.logger.Error("the cluster still waits for a founder", "address", m.config.FoundWithout, "err", err)
	default:
		m.logger.Info("the cluster does without a founder", "address", m.config.FoundWithout)
	}
}

// founding says which founders are there while the cluster is being founded; else
// it is empty.
func (m *MetaGroup) founding() string {
	view := m.View()
	progress, founding := view.Founding()
	if !founding {
		return ""
	}
	var there []string
	for b := range view.Brokers() {
		there = append(there, fmt.Sprintf("node %d at %s", b.Node, b.RPCAddress))
	}
	return fmt.Sprintf("cluster %s is being founded: %s (%s): start the others, or restart a broker with --found-without and the address of one that will never come",
		view.ClusterID(), progress, strings.Join(there, ", "))
}
