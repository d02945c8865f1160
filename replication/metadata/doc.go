// Package metadata is the state machine of the metadata group: what a cluster
// knows about itself, as a pure function of the commands in one Raft log.
//
// The package does no I/O, starts no goroutine, reads no clock and draws no
// random number. Ids, times and incarnations come inside the commands, so every
// replica that applied the same log holds the same state, bit for bit: a test
// compares the snapshots of replicas.
//
// # A guide
//
//   - ids.go       node ids and incarnations, shared with the transport
//   - command.go   the table of commands and the envelope around each
//   - broker.go, drain.go, unregister.go, topic.go, producerids.go, founding.go   the commands
//   - membership.go, retarget.go, assignment.go, reassign.go   which replicas a partition is to have
//   - result.go    what a command answers: a Result, refusals included
//   - session.go   each command takes effect once, however often it is sent
//   - state.go     State, the machine;  view.go  View, one immutable picture
//   - snapshot.go  the whole state as bytes
//   - placement.go which brokers get the replicas of a new topic
//   - plan.go      where the replicas there are should move
//   - names.go     Kafka's rules for topic names
//   - codec.go     the one coder behind commands, results and snapshots
//   - table.go     the persistent map that views are made of
//
// # Refused, unknown, damaged
//
// A command can end in three ways. It is applied, or refused for a reason that
// every replica finds alike (a topic exists): both are Results, both move the
// index. A command that this program does not know, in number or version, or
// cannot parse, is an error of State.Apply: the state is as before, and the
// caller must stop the node, because the other replicas may have changed theirs.
// Only a command whose sender set the may-be-ignored bit is skipped by a program
// that does not know it.
//
// # Once
//
// The node that wants a change sends the command to the leader and sends it
// again when no answer comes, so that one command can be in the log twice. Each
// carries the session of its sender (drawn at process start, made known by
// RegisterBroker) and a number; the state keeps the results the sender has not
// yet received and answers the second copy with the first one's result (Raft
// thesis, section 6.3). A command of a session that is no longer the registered
// one is refused, so nothing of a process that was replaced takes effect later.
//
// # Formats
//
// All integers are big-endian. Every length and count is checked against a named
// limit and the bytes left before anything is allocated. testdata holds one
// golden encoding of each command and of a snapshot, and one of each older layout;
// they never change, a new layout is a new version, and the older stay readable.
package metadata
