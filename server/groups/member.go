package groups

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// protocol is one way of assigning that a member offers, with its subscription.
type protocol struct {
	name     string
	metadata []byte
}

// member is one member of a group, guarded by the lock of the group's shard.
type member struct {
	id        string
	instance  *string // nil for a dynamic member
	clientID  string
	host      string
	number    int64 // in the order of joining
	session   time.Duration
	rebalance time.Duration
	protocols []protocol // in the order of preference

	assignment []byte
	isNew      bool // its first rebalance is not over: it sends no heartbeats yet
	deadline   time.Time
	timer      *timer // fires at or before deadline

	join chan<- joinResult // capacity 1; not nil while a join waits
	sync chan<- syncResult // capacity 1; not nil while a sync waits
}

// joinResult is the answer to a join.
type joinResult struct {
	code         int16
	memberID     string
	generation   int32
	protocolType string
	protocol     string
	leader       string
	skip         bool // the leader must not assign (KIP-814)
	members      []kmsg.JoinGroupResponseMember
}

// syncResult is the answer to a sync.
type syncResult struct {
	code         int16
	protocolType string
	protocol     string
	assignment   []byte
}

// newMemberID is Kafka's form: the instance id or the client id, and a UUID.
func newMemberID(prefix string) string {
	var id [16]byte
	rand.Read(id[:]) // never fails since Go 1.24
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", prefix[:min(len(prefix), maxClientID)], id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// metadata is what the member sent with a protocol, nil if it does not offer it.
func (m *member) metadata(name string) []byte {
	for _, p := range m.protocols {
		if p.name == name {
			return p.metadata
		}
	}
	return nil
}

// offers says that the member joins with the very protocols it already has.
func (m *member) offers(protocols []protocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b protocol) bool {
		return a.name == b.name && bytes.Equal(a.metadata, b.metadata)
	})
}

func (m *member) answerSync(r syncResult) {
	if m.sync != nil {
		m.sync <- r
		m.sync = nil
	}
}

// answerJoin ends a waiting join, if there is one.
func (g *group) answerJoin(m *member, r joinResult) {
	if m.join != nil {
		m.join <- r
		m.join = nil
		g.awaiting--
	}
}

// awaitJoin makes ch the one that gets the answer. A join of the same member that
// waits on another connection, which the client has given up, is ended.
func (g *group) awaitJoin(m *member, ch chan<- joinResult) {
	g.answerJoin(m, joinResult{code: codeRebalance, memberID: m.id, generation: -1})
	m.join = ch
	g.awaiting++
}

// awaitSync is awaitJoin for a sync.
func (m *member) awaitSync(ch chan<- syncResult) {
	m.answerSync(syncResult{code: codeRebalance})
	m.sync = ch
}

// insert adds a member. The first one gives the group its type and leads it.
func (g *group) insert(m *member) {
	g.joined++
	m.number = g.joined
	g.members[m.id] = m
	if m.instance != nil {
		g.static[*m.instance] = m.id
	}
}

// remove takes a member out, and says so to whatever of it waits. It does not
// rebalance.
func (g *group) remove(m *member, code int16) {
	g.stopTimer(&m.timer)
	g.answerJoin(m, joinResult{code: code, memberID: m.id, generation: -1})
	m.answerSync(syncResult{code: code})
	delete(g.members, m.id)
	delete(g.pendingSync, m.id)
	if m.instance != nil && g.static[*m.instance] == m.id {
		delete(g.static, *m.instance)
	}
	if g.leader != m.id {
		return
	}
	g.leader = ""
	if rest := g.ordered(); len(rest) > 0 {
		g.leader = rest[0].id
	}
}

// leave removes a member and begins or goes on with the rebalance this means.
func (g *group) leave(m *member, reason string) {
	g.remove(m, codeUnknownMember)
	switch g.state {
	case Stable, Completing:
		g.prepareRebalance(reason)
	case Preparing:
		g.maybeCompleteJoin()
	}
}

// addPending remembers a member id that was given out but has not joined with it.
// It holds up a rebalance for at most its session time-out.
func (g *group) addPending(id string, session time.Duration) {
	g.pending[id] = g.s.c.timers.start(session, func(t *timer) {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		if g.pending[id] == t {
			g.removePending(id)
			g.maybeCompleteJoin()
			g.s.dropIfVacant(g)
		}
	})
}

func (g *group) removePending(id string) {
	g.s.c.timers.cancel(g.pending[id])
	delete(g.pending, id)
}

// touch begins the member's session anew. A timer that fires too early looks at
// the deadline and waits on, so that a heartbeat moves nothing in the heap.
func (g *group) touch(m *member) {
	g.touchFor(m, m.session)
}

func (g *group) touchFor(m *member, d time.Duration) {
	m.deadline = g.s.c.cfg.Now().Add(d)
	if m.timer != nil && !m.timer.at.After(m.deadline) {
		return
	}
	g.stopTimer(&m.timer)
	m.timer = g.s.c.timers.start(d, func(t *timer) { g.sessionFired(m, t) })
}

func (g *group) sessionFired(m *member, t *timer) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if m.timer != t {
		return
	}
	m.timer = nil
	if left := m.deadline.Sub(g.s.c.cfg.Now()); left > 0 {
		m.timer = g.s.c.timers.start(left, func(t *timer) { g.sessionFired(m, t) })
		return
	}
	if !m.isNew && (m.join != nil || m.sync != nil) {
		return // the coordinator owes it an answer, and touches it then
	}
	g.s.log.Info("member's session ended", "group", g.id, "member", m.id, "generation", g.generation)
	g.leave(m, "a session ended")
}

// check says whether a request comes from a member: known, and not a static one
// that another process has replaced (KIP-345).
func (g *group) check(id string, instance *string) (*member, int16) {
	if instance != nil {
		current, ok := g.static[*instance]
		if !ok {
			return nil, codeUnknownMember
		}
		if current != id {
			return nil, codeFencedInstance
		}
	}
	m := g.members[id]
	if m == nil {
		return nil, codeUnknownMember
	}
	return m, codeNone
}
