package groups

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// JoinGroup, key 11.
//
// Version notes:
//   - v1 adds the rebalance time-out; before, it is the session time-out
//   - v4 answers a first join with MEMBER_ID_REQUIRED and an id (KIP-394)
//   - v5 adds the instance id of static members (KIP-345)
//   - v7 adds the protocol type to the answer, and a null protocol name
//   - v8 adds a reason, which is for logs (KIP-800)
//   - v9 adds SkipAssignment (KIP-814)

// joinRequest is a checked JoinGroup request.
type joinRequest struct {
	memberID     string
	instance     *string
	client       ClientInfo
	session      time.Duration
	rebalance    time.Duration
	protocolType string
	protocols    []protocol
	needID       bool // v4+
	canSkip      bool // v9+
	answer       chan<- joinResult
}

func (c *Coordinator) joinGroup(ctx context.Context, r *kmsg.JoinGroupRequest, client ClientInfo) kmsg.Response {
	answer := make(chan joinResult, 1)
	c.beginJoin(r, client, answer)
	var result joinResult
	select {
	case result = <-answer:
	case <-ctx.Done():
		result = joinResult{code: codeNotAvailable, memberID: r.MemberID, generation: -1}
	}
	resp := r.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.ErrorCode, resp.MemberID, resp.Generation = result.code, result.memberID, result.generation
	resp.LeaderID, resp.SkipAssignment, resp.Members = result.leader, result.skip, result.members
	resp.ProtocolType, resp.Protocol = nullable(result.protocolType), nullable(result.protocol)
	if r.Version < 7 {
		resp.Protocol = &result.protocol
	}
	return resp
}

// beginJoin answers at once, or leaves answer with the member.
func (c *Coordinator) beginJoin(r *kmsg.JoinGroupRequest, client ClientInfo, answer chan<- joinResult) {
	refuse := func(code int16) {
		answer <- joinResult{code: code, memberID: r.MemberID, generation: -1}
	}
	j, code := c.checkJoin(r, client)
	if code != codeNone {
		refuse(code)
		return
	}
	j.answer = answer
	s, code := c.lock(r.Group)
	if code != codeNone {
		refuse(code)
		return
	}
	defer s.mu.Unlock()
	g := s.group(r.Group, r.MemberID == "")
	switch {
	case g == nil:
		code = codeUnknownMember
	case g.deleting:
		code = codeNotAvailable
	case !g.hasRoomFor(r.MemberID):
		g.removePending(r.MemberID)
		code = codeGroupMaxSize
	case !g.canOffer(j.protocolType, j.protocols):
		code = codeInconsistent
	case r.MemberID == "":
		g.joinNew(j)
	default:
		g.joinAgain(j)
	}
	if code != codeNone {
		refuse(code)
	}
	if g != nil {
		g.maybeCompleteJoin()
		s.dropIfVacant(g)
	}
}

// checkJoin judges the request by itself. Its bytes are copied: they belong to
// the connection's buffer.
func (c *Coordinator) checkJoin(r *kmsg.JoinGroupRequest, client ClientInfo) (joinRequest, int16) {
	j := joinRequest{
		memberID: r.MemberID, instance: r.InstanceID, protocolType: r.ProtocolType,
		client:  ClientInfo{ID: client.ID[:min(len(client.ID), maxName)], Host: client.Host[:min(len(client.Host), maxName)]},
		session: time.Duration(r.SessionTimeoutMillis) * time.Millisecond,
		needID:  r.Version >= 4 && r.InstanceID == nil,
		canSkip: r.Version >= 9,
	}
	j.rebalance = time.Duration(r.RebalanceTimeoutMillis) * time.Millisecond
	if r.Version == 0 || r.RebalanceTimeoutMillis < 0 {
		j.rebalance = j.session
	}
	switch {
	case !validGroup(r.Group):
		return j, codeInvalidGroup
	case j.session < c.cfg.MinSessionTimeout || j.session > c.cfg.MaxSessionTimeout:
		return j, codeInvalidSession
	case len(r.MemberID) > maxName || len(text(r.InstanceID)) > maxName || len(r.ProtocolType) > maxName:
		return j, codeInvalidRequest
	case len(r.Protocols) > maxProtocols:
		return j, codeInvalidRequest
	}
	for _, p := range r.Protocols {
		if len(p.Name) > maxName {
			return j, codeInvalidRequest
		}
		j.protocols = append(j.protocols, protocol{p.Name, slices.Clone(p.Metadata)})
	}
	return j, codeNone
}

// validGroup says whether a group can have members.
func validGroup(id string) bool { return id != "" && len(id) <= maxGroupID }

// hasRoomFor holds the group against group.max.size.
func (g *group) hasRoomFor(id string) bool {
	size := g.s.c.cfg.MaxGroupSize
	switch m := g.members[id]; g.state {
	case Preparing:
		return m != nil && m.join != nil || g.awaiting < size
	case Completing, Stable:
		return m != nil || len(g.members) < size
	}
	return true
}

// joinNew is a join without a member id.
func (g *group) joinNew(j joinRequest) {
	if j.instance != nil {
		id := newMemberID(*j.instance)
		if old, known := g.static[*j.instance]; known {
			g.replaceStatic(j, old, id)
			return
		}
		g.addMember(j, id)
		return
	}
	id := newMemberID(j.client.ID)
	if !j.needID {
		g.addMember(j, id)
		return
	}
	g.addPending(id, j.session)
	j.answer <- joinResult{code: codeMemberIDRequired, memberID: id, generation: -1}
}

// joinAgain is a join with a member id.
func (g *group) joinAgain(j joinRequest) {
	if _, pending := g.pending[j.memberID]; pending && j.instance == nil {
		g.removePending(j.memberID)
		g.addMember(j, j.memberID)
		return
	}
	m, code := g.check(j.memberID, j.instance)
	if code != codeNone {
		j.answer <- joinResult{code: code, memberID: j.memberID, generation: -1}
		return
	}
	same := m.offers(j.protocols)
	switch {
	case g.state == Completing && same:
		// Its answer got lost: it is told again.
		j.answer <- g.generationFor(m, g.isLeader(m))
	case g.state == Stable && same && !g.isLeader(m):
		j.answer <- g.generationFor(m, false)
	default:
		// New metadata; or the leader, which so asks for a rebalance when something
		// changed that no metadata shows, such as the partitions of a topic.
		g.update(m, j)
		g.awaitJoin(m, j.answer)
		g.maybePrepareRebalance("a member joined again")
	}
}

// update takes over what a member asks for now.
func (g *group) update(m *member, j joinRequest) {
	m.protocols, m.session, m.rebalance = j.protocols, j.session, j.rebalance
	m.clientID, m.host = j.client.ID, j.client.Host
}

func (g *group) addMember(j joinRequest, id string) {
	m := &member{id: id, instance: j.instance, isNew: true}
	g.update(m, j)
	if len(g.members) == 0 {
		g.protocolType = j.protocolType
	}
	if g.leader == "" {
		g.leader = id
	}
	g.insert(m)
	g.awaitJoin(m, j.answer)
	g.touchFor(m, g.s.c.cfg.NewMemberTimeout)
	if g.state == Preparing && g.generation == 0 {
		g.newcomer = true
	}
	g.maybePrepareRebalance("a member joined")
}

// replaceStatic lets a restarted static member take the place of its former self,
// which is fenced. While the group is stable and would choose the same protocol,
// that needs no rebalance.
func (g *group) replaceStatic(j joinRequest, old, id string) {
	m := g.members[old]
	formerLeader := g.leader
	g.answerJoin(m, joinResult{code: codeFencedInstance, memberID: old, generation: -1})
	m.answerSync(syncResult{code: codeFencedInstance})
	delete(g.members, old)
	delete(g.pendingSync, old)
	m.id = id
	g.members[id] = m
	g.static[*j.instance] = id
	if g.leader == old {
		g.leader = id
	}
	before := m.metadata(g.protocol)
	g.update(m, j)
	g.touch(m)
	if g.state == Stable && g.vote() == g.protocol && sameTopics(before, m.metadata(g.protocol)) {
		g.storeReplaced(m, j, formerLeader)
		return
	}
	g.awaitJoin(m, j.answer)
	g.maybePrepareRebalance("a static member came back")
}

// sameTopics compares what two subscriptions name. What else they hold (owned
// partitions, a generation) always differs after a restart. Metadata that names
// no topics is taken as the same.
func sameTopics(a, b []byte) bool {
	before, ok := subscription(a)
	after, okAfter := subscription(b)
	if !ok || !okAfter {
		return true
	}
	slices.Sort(before)
	slices.Sort(after)
	return slices.Equal(before, after)
}

// storeReplaced makes the new member id durable before it is told: a coordinator
// that loads the group must know it. A leader of an old client is told its former
// id as leader's, so that it does not assign.
func (g *group) storeReplaced(m *member, j joinRequest, formerLeader string) {
	id, generation := m.id, g.generation
	reply := func(err error) {
		if err != nil {
			j.answer <- joinResult{code: writeCode(err, codeUnknownServer), memberID: "", generation: -1}
			return
		}
		switch {
		case g.members[id] == m && g.state == Preparing:
			g.awaitJoin(m, j.answer) // a rebalance began meanwhile: this is its join
			g.maybeCompleteJoin()
			return
		case g.members[id] != m || g.generation != generation || g.state != Stable:
			j.answer <- joinResult{code: codeRebalance, memberID: id, generation: -1}
			return
		}
		r := g.generationFor(m, j.canSkip && g.isLeader(m))
		r.skip = j.canSkip && g.isLeader(m)
		if !j.canSkip {
			r.leader = formerLeader
		}
		j.answer <- r
	}
	if err := g.store(func(m *member) []byte { return m.assignment }, reply); err != nil {
		reply(err)
	}
}
