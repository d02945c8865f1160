package replication

import (
	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/segment"
)

// The metadata group's leader with a disk that hangs gives its leadership up like a
// partition's, see stuck.go. Its files are a library's, so the calls that store
// entries are watched from outside (failStop), each as one step.

// hasResigned reports whether the instance has given up the term it is in.
func (in *metaInstance) hasResigned() bool {
	resigned := in.resigned.Load()
	return resigned > 0 && resigned >= in.raft.CurrentTerm()
}

// hasResigned is that of the running instance.
func (m *MetaGroup) hasResigned() bool {
	in := m.current()
	return in != nil && in.hasResigned()
}

// leader is the one that raft knows, empty for none. Raft takes itself for the leader
// for as long as it waits for the disk, and hears of no other.
func (in *metaInstance) leader() raft.ServerID {
	_, id := in.raft.LeaderWithID()
	if id == in.id && in.hasResigned() {
		return ""
	}
	return id
}

// diskHangs gives the leadership up, if this instance has it and the others can elect
// another without it. It is called again while the disk hangs, until they can.
func (m *MetaGroup) diskHangs(in *metaInstance) {
	term, leads := in.facade.Leading()
	if !leads || in.resigned.Load() >= uint64(term) {
		return
	}
	var others []raft.ServerID
	voters := voterIDs(in.raft.GetConfiguration().Configuration().Servers)
	for _, id := range voters {
		if id != in.id && m.answers(id) {
			others = append(others, id)
		}
	}
	if len(others) <= len(voters)/2 {
		return // nobody could lead instead, and the disk may come back
	}
	longestFirst(others, in.facade.Matches(term)) // before they are forgotten
	in.resign(term)
	m.leaderMoved()
	m.logger.Info("this node gives up leading the metadata group: its disk hangs", "term", int64(term))
	in.gate.Lock()
	defer in.gate.Unlock()
	if !in.closing {
		in.work.Go(func() { m.elect(in, term, others) })
	}
}

// resign makes this node no leader for peers and for itself, and lets go whoever
// waits for raft: the next leader can be asked before the disk is back.
func (in *metaInstance) resign(term segment.Term) {
	in.resigned.Store(uint64(term))
	in.facade.Resign(term)
	in.gate.Lock()
	defer in.gate.Unlock()
	close(in.letGo)
	in.letGo = make(chan struct{})
}

// elect has one of the others elected.
func (m *MetaGroup) elect(in *metaInstance, term segment.Term, others []raft.ServerID) {
	electOneOf(in.facade, in.stopped, term, others, func(id raft.ServerID, err error) {
		m.logger.Debug("no election of the metadata leader started", "at", string(id), "err", err)
	})
}
