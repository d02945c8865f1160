// Package replication makes one node's part of a cluster: it runs a raft group
// for each partition of which the node has a replica, on the partition's own log,
// and the metadata group that all brokers share.
//
// # What is where
//
//	host.go reconcile.go replicas.go   the node: makes, opens and removes replicas as the metadata says
//	partition.go instance.go           one replica, and one run of raft for it
//	proposal.go queue.go guard.go
//	refusals.go                        a batch on its way into the log, and the checks where its order is known
//	logstore.go snapshotstore.go
//	fsm.go frames.go votes.go          the log, the checkpoint, the state machine and the votes as raft sees them
//	trim.go retention.go               moving the log start, and what has expired
//	probation.go                       a replica that may have lost the end of its log
//	seed.go                            a replica below its leader's log gets it as files
//	leaders.go gossip.go groupup.go    who leads what, told from node to node
//	detector.go electors.go            a node that has died, and elections for all that it led
//	transfer.go move.go balance.go     moving leadership: from any node, back by itself,
//	stuck.go metastuck.go drain.go
//	stopping.go hungdisk.go            and away from a hung disk and a broker that is to be stopped, or stops
//	membership.go                      a partition's group gets the replicas that the metadata wants
//	confirm.go                         whether what only the leader may say may be said now
//	node.go metagroup.go metastore.go
//	founding.go join.go forward.go
//	quorum.go                          the data folder's identity and the metadata group
//	planted.go                         bugs that the simulator must find, in no ordinary build
//
// Package transport carries raft's messages, package metadata is the replicated
// state machine of the cluster.
//
// # A batch's way
//
// Partition.Propose puts a checked batch into the partition's queue. One
// goroutine drains the queue into raft.Apply, so the order of calls is the order
// of the log. Raft gathers entries and calls logStore.StoreLogs, the only place
// where the order is known: there each batch is judged (guard.go), stamped with
// its term and offset or replaced by a void, written and synced. The followers'
// logs take the same bytes. When a majority holds it, raft applies it: the high
// watermark moves, and the proposal resolves.
//
// # What raft is not allowed to do
//
// hashicorp/raft trims its log after snapshots, installs snapshots over a
// replica, reads whole logs at start and takes an accepted Apply for a known
// position. Here the log is the data, so: DeleteRange cuts suffixes only and
// nothing that is committed; there are no snapshots, only the checkpoint at which
// NewRaft starts, and the S of a seed; an append that failed poisons the instance, because raft's own
// idea of its last entry is wrong from then on, and a new instance is started.
//
// # What only a leader may say
//
// Where a log ends, and the positions of a group, are answered from the leader's
// memory. One that was cut off, or whose process was paused, may have been replaced
// and not know it. So such an answer is taken first, and given if Partition.Confirm
// says so, which asks the group: a majority of the voters, this one included, must
// accept a heartbeat of the leader's term that was sent after Confirm was called.
//
// That suffices. Let a later leader, of term U, have acknowledged something before the
// client asked. Its election took a majority of voters that were in term U or a later
// one by then, and no voter ever goes back: the term is durable before a vote is given,
// and a replica that lost it is another voter (DESIGN 4.4). The two majorities share a
// voter. If that is another node, it was asked after it came to be in term U, and
// refuses; if it is this one, it has left its term, which is looked at last. And what
// this leader itself acknowledged before the client asked was applied before, so that
// the answer has it. Changes of membership alter nothing, by Raft's own argument: two
// configurations that follow each other have no disjoint majorities, and the second
// is used before a third is begun.
//
// It asks no clock. A lease would need that nobody is elected while it runs, and the
// failure detector means to elect at once: within milliseconds of a reset and a
// refusal, while the pings that the old leader sent before are younger than any
// useful lease. Waiting out that lease at every election would make each failover
// longer for the sake of questions that are rare; one round trip, shared by all who
// ask at one time, is their price. A late answer to an older heartbeat proves nothing
// and is not counted, as it is by raft's VerifyLeader: after a pause of the process
// all answers are late. The metadata group's read index is confirmed in the same way.
//
// Records and acknowledgements need none of it. What lies below the high watermark is
// committed, whoever leads; a fetch may see less than there is, and never anything
// else. An acknowledgement takes a majority by itself.
//
// # What a trim may remove
//
// The leader proposes "log start = X" (Partition.Trim for DeleteRecords, the retainer
// for retention); readers see it when it is applied. A trim also names the last entry
// whose segment may be removed from the disk: the last that every member of the group,
// learners included, has acknowledged to this leader in this term. Nobody who is there
// ever asks for an entry below it. A member that has said nothing for an hour
// (Config.RetentionWait) is not waited for: it comes back below the leader's log, and
// is seeded. After a change of leadership nothing is removed until every member has
// acknowledged something to the new one, or the hour is over.
//
// # Seeding
//
// A leader whose follower needs an entry that was trimmed says "get everything up to
// S", the end of its last sealed segment; the follower copies the segments as files
// (package seeding), puts them in the place of its log with one rename, starts a new
// raft instance on them, and AppendEntries brings the rest. seed.go has the argument
// why nothing is lost by it.
//
// # Which replica may speak
//
// A replica has an incarnation, 64 random bits, which its folder, the vote file
// and the metadata must all name. One of them missing or different means that it
// forgot what it voted for or acknowledged: it is kept, reported and stays out
// of its group. It is made once: node.json's metadata index, and the topics that
// it names as not made, say which records may still be made. A folder that the
// metadata does not know is set aside, never deleted; only a delete record removes
// data. A replica whose log was cut where nobody can tell a torn write from a rotten
// disk speaks, but does not vote, until it is certain to hold what it acknowledged:
// it is on probation (probation.go).
//
// # Lock order
//
// Partition.mu and the queue's lock are leaves: neither is held while raft, the
// log or the transport is called. Partition.announcing is held while the role is
// looked at and written into the table of leaders, which takes the locks of the
// partition, the facade, the mux and the table, and waits for nothing. Raft's goroutines call logStore, fsm and the
// transport; what these call must never wait for raft (Shutdown waits for them).
package replication
