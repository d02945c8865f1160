// Package groups coordinates consumer groups: the classic group protocol of Kafka
// (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) with static members, and the
// committed positions of groups and of consumers outside of any.
//
// # Where state lives
//
// A group belongs to one partition of the topic __consumer_offsets (PartitionFor),
// and the ready leader of that partition coordinates it. All that must outlive the
// leader is in that partition's log, in Kafka's own record formats:
//
//	key                                              value (null: a tombstone)
//	int16 0|1, group, topic, int32 partition         committed position, v3
//	int16 2, group                                   generation and members, v3
//
// The last record of a key counts. A rebalance under way, sessions and what waits
// for an answer are in memory only: a new leader takes over the last generation
// with its members, whose sessions begin anew, so a group that was stable goes on
// without a rebalance.
//
//	Coordinator   partition -> shard, dispatch of requests, one heap of timers
//	  shard       one partition led in one term: loading, active, deposed or closed
//	    group     state machine, members, durable positions
//
// Each shard has one lock for all its groups and one goroutine. No lock is held
// while the log is read or written.
//
// # The order of writes
//
// A request that changes durable state queues its records under the shard's lock
// and waits. The shard's goroutine appends what has gathered as one batch, one at a
// time, and then, in the order of the queue, makes it visible. So the order of
// commits in the log is the order in which they become visible; no position is
// visible, and no member is told an assignment, before it is durable on a
// majority. Deletes write tombstones for queued commits too, because those will be
// in the log below them.
//
// # When an outcome is unknown
//
// Store.Append may end without saying whether the batch is in the log, or will be.
// Neither answer to the client would be true, and to go on with either memory
// could be taken back by a later reader of the log. Of the two ways out (keep the
// batch pending until a later append of the same term is confirmed, or read the
// log again) this package takes the second, because it needs no code of its own:
//
//  1. In one step the shard forgets all memory and goes back to loading. Everything
//     that waits gets COORDINATOR_NOT_AVAILABLE, after which clients look for the
//     coordinator and try again; requests get COORDINATOR_LOAD_IN_PROGRESS.
//  2. It appends a barrier, a record that changes nothing (a tombstone for a
//     position of the topic ""), until that is confirmed in its own term. Proposals
//     reach the log in the order they are made, so then the unknown batch is either
//     below the barrier or will never be in the log.
//  3. It loads the log as after an election, the batch included if it is there.
//
// Between 1 and 3 no position is answered, so none goes back. It is a change of
// coordinator onto itself, and tested as one. While the log refuses the term
// (ErrNotCoordinator) requests get NOT_COORDINATOR, and step 2 is tried again until
// the server calls Resign or Lead, or the log takes the barrier after all, as it
// does when leadership was to be handed over and was not.
//
// # What is never guessed
//
// A position that is not in memory is answered as -1 ("none") only by an active
// shard. A position whose record cannot be read is answered with an error, not as
// none: a consumer would start over. A negative position is not taken.
//
// Beside Kafka's key and value, the record of a position has a header with the
// metadata index at which its topic was created. A topic that is deleted and
// created again under its name has a larger one, so that positions of the old one
// are neither answered nor kept, whatever node was down when it was deleted.
// (Kafka's value v4 has the topic id for this; tools before 4.1 cannot read it.)
//
// # Assumptions
//
// Store keeps its contract: a batch is refused when the term has changed, and a
// confirmed one is seen by a later Load. Time-outs are local to the leader and need
// no agreement between clocks. Kafka's behaviour is the reference for everything a
// client can see; where this package differs, the code says why.
package groups
