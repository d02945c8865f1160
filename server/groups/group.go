package groups

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// State is where a group stands between two generations.
//
//	        first join            all members joined, or time is up
//	Empty ------------> Preparing ------------------------> Completing
//	  ^                  ^   ^  |                            |  |
//	  |  nobody joined   |   |  |   join, leave, time-out    |  | the leader's
//	  +------------------|---|--+ <--------------------------+  | assignment
//	                     |   |                                  v is durable
//	                     |   +------------------------------- Stable
//	                     +--- join with other metadata, leave, time-out
type State string

// The states, as DescribeGroups and ListGroups name them.
const (
	Empty      State = "Empty"               // no members; perhaps committed positions
	Preparing  State = "PreparingRebalance"  // members are asked to join again
	Completing State = "CompletingRebalance" // the generation is fixed, its leader assigns
	Stable     State = "Stable"              // every member has its assignment
	Dead       State = "Dead"                // there is no such group
)

// consumerType is the protocol type whose metadata names topics.
const consumerType = "consumer"

// group is one group of the classic protocol. All of it is guarded by the lock of
// its shard.
type group struct {
	s  *shard
	id string

	state        State
	since        time.Time // of state
	protocolType string    // "" until a member has joined
	protocol     string    // chosen for the generation, "" in Empty
	generation   int32
	leader       string // member id, "" for none
	members      map[string]*member
	static       map[string]string // instance id -> member id
	pending      map[string]*timer // member ids given out with MEMBER_ID_REQUIRED
	joined       int64             // numbers members in the order they came
	awaiting     int               // members whose join waits for an answer

	joinTimer   *timer // ends Preparing
	collecting  bool   // joinTimer is the initial delay, which nothing ends early
	newcomer    bool   // somebody joined during it
	syncTimer   *timer // ends Completing for members that do not sync
	pendingSync map[string]struct{}
	storing     bool // the leader's assignment is on its way to the log

	offsets  map[topicPartition]position // durable, and so visible
	inFlight map[topicPartition]flight   // queued commits
	deleting bool                        // tombstones for all of it are queued
}

// flight counts the commits of one position that are not durable yet.
type flight struct {
	commits int
	created uint64 // the largest Topic.Created among them
}

func newGroup(s *shard, id string) *group {
	return &group{
		s: s, id: id, state: Empty, since: s.c.cfg.Now(),
		members: make(map[string]*member), static: make(map[string]string), pending: make(map[string]*timer),
		pendingSync: make(map[string]struct{}),
		offsets:     make(map[topicPartition]position), inFlight: make(map[topicPartition]flight),
	}
}

// restore takes over what the log says. A group without a chosen protocol or a
// known leader cannot go on and is balanced anew.
func (g *group) restore(v kmsg.GroupMetadataValue) {
	g.protocolType, g.generation = v.ProtocolType, v.Generation
	g.protocol, g.leader = text(v.Protocol), text(v.Leader)
	if at := time.UnixMilli(v.CurrentStateTimestamp); v.CurrentStateTimestamp >= 0 && at.Before(g.since) {
		g.since = at // a time in the future is another node's clock
	}
	for i := range v.Members {
		g.restoreMember(&v.Members[i])
	}
	if len(g.members) == 0 {
		return
	}
	g.state = Stable
	if g.members[g.leader] == nil {
		g.leader = g.ordered()[0].id
		g.prepareRebalance("the stored leader is not a member")
	} else if g.protocol == "" || len(g.members) > g.s.c.cfg.MaxGroupSize {
		g.prepareRebalance("the stored generation cannot go on")
	}
}

func (g *group) restoreMember(v *kmsg.GroupMetadataValueMember) {
	cfg := &g.s.c.cfg
	session := time.Duration(v.SessionTimeoutMillis) * time.Millisecond
	rebalance := time.Duration(v.RebalanceTimeoutMillis) * time.Millisecond
	m := &member{
		id: v.MemberID, instance: v.InstanceID, clientID: v.ClientID, host: v.ClientHost,
		session:    min(max(session, cfg.MinSessionTimeout), cfg.MaxSessionTimeout),
		rebalance:  rebalance,
		protocols:  []protocol{{g.protocol, v.Subscription}},
		assignment: v.Assignment,
	}
	if m.rebalance <= 0 { // version 0 has none
		m.rebalance = m.session
	}
	g.insert(m)
	g.touch(m)
}

// value is the group as the log holds it, with the given assignments.
func (g *group) value(assign func(*member) []byte) kmsg.GroupMetadataValue {
	v := kmsg.GroupMetadataValue{
		Version: groupValueV3, ProtocolType: g.protocolType, Generation: g.generation,
		Protocol: nullable(g.protocol), Leader: nullable(g.leader), CurrentStateTimestamp: g.since.UnixMilli(),
	}
	for _, m := range g.ordered() {
		v.Members = append(v.Members, kmsg.GroupMetadataValueMember{
			MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.host,
			RebalanceTimeoutMillis: int32(m.rebalance.Milliseconds()),
			SessionTimeoutMillis:   int32(m.session.Milliseconds()),
			Subscription:           m.metadata(g.protocol), Assignment: assign(m),
		})
	}
	return v
}

// store queues the group's metadata.
func (g *group) store(assign func(*member) []byte, done func(error)) error {
	v := g.value(assign)
	r := segment.Record{Timestamp: g.s.c.cfg.Now().UnixMilli(), Key: groupKey(g.id), Value: v.AppendTo(nil)}
	return g.s.enqueue([]segment.Record{r}, done)
}

func (g *group) setState(s State) {
	g.state, g.since = s, g.s.c.cfg.Now()
}

// ordered is the members in the order they joined, so that the same requests lead
// to the same leader and the same bytes.
func (g *group) ordered() []*member {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *member) int { return cmp.Compare(a.number, b.number) })
}

// vacant says that nobody would miss the group.
func (g *group) vacant() bool {
	return g.state == Empty && len(g.members)+len(g.pending)+len(g.offsets)+len(g.inFlight) == 0 && !g.deleting
}

// abandon answers everything that waits with code and stops all timers: the group
// is not used any more.
func (g *group) abandon(code int16) {
	g.stopTimer(&g.joinTimer)
	g.stopTimer(&g.syncTimer)
	for id := range g.pending {
		g.removePending(id)
	}
	for _, m := range g.ordered() {
		g.stopTimer(&m.timer)
		g.answerJoin(m, joinResult{code: code, memberID: m.id, generation: -1})
		m.answerSync(syncResult{code: code})
	}
}

func (g *group) stopTimer(t **timer) {
	g.s.c.timers.cancel(*t)
	*t = nil
}

// subscribed is the set of topics that members of a consumer group have asked
// for. known is false when it cannot be told.
func (g *group) subscribed() (topics map[string]bool, known bool) {
	topics = make(map[string]bool)
	for _, m := range g.members {
		for _, p := range m.protocols {
			names, ok := subscription(p.metadata)
			if !ok {
				return nil, false
			}
			for _, name := range names {
				topics[name] = true
			}
		}
	}
	return topics, g.protocolType == consumerType
}

// text is the string of a nullable one.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// nullable is null for "".
func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
