package metadata

import "slices"

// answer is the result of one command of a session.
type answer struct {
	Sequence uint64
	Result   Result
}

// session holds what the registered process of a node may still ask again. It is
// replaced, never changed.
type session struct {
	// ID is the process, as registered.
	ID uint64
	// Done: the sender has the answers of all sequences below.
	Done uint64
	// Answers are the ones it may not have, in order of their application.
	Answers []answer
}

// sessionSize is the least size of an encoded session.
const sessionSize = 8 + 8 + 4

func codeAnswer(c *coder, a *answer) {
	code64(c, &a.Sequence)
	codeResult(c, &a.Result)
}

// codeSession codes a session in snapshots, after its node:
//
//	u64 id | u64 done | u32 n, n x (u64 sequence, result)
func codeSession(c *coder, s *session) {
	code64(c, &s.ID)
	code64(c, &s.Done)
	list(c, &s.Answers, 8+resultSize, codeAnswer)
}

// admit decides whether a command is to be applied. If not, the result is its
// answer.
func (d *draft) admit(o Origin) (Result, bool) {
	if o.Session == 0 {
		return Result{}, true
	}
	s, ok := d.sessions.get(nodeKey(o.Node))
	if !ok || s.ID != o.Session {
		return refuse(Fenced, "node %d has not registered this process, or registered another since", o.Node), false
	}
	for _, a := range s.Answers {
		if a.Sequence == o.Sequence {
			return a.Result, false
		}
	}
	if o.Sequence < s.Done {
		return refuse(Expired, "command %d of node %d was answered before", o.Sequence, o.Node), false
	}
	return Result{}, true
}

// remember keeps the result of an applied command until its sender has it.
func (d *draft) remember(o Origin, r Result) {
	if o.Session == 0 {
		return
	}
	s, ok := d.sessions.get(nodeKey(o.Node))
	if !ok || s.ID != o.Session {
		return
	}
	next := session{ID: s.ID, Done: max(s.Done, o.Done), Answers: slices.Clone(s.Answers)}
	next.Answers = slices.DeleteFunc(next.Answers, func(a answer) bool { return a.Sequence < next.Done })
	if o.Sequence >= next.Done {
		next.Answers = append(next.Answers, answer{o.Sequence, r})
	}
	d.sessions = d.sessions.put(nodeKey(o.Node), &next)
}
