// Package simulation runs whole clusters in one process, on virtual time, breaks
// them as a seed says, and judges what they did: `make simulate SEEDS=1000`.
//
// A run is three nodes with a real replication.Host each: real raft groups and real
// logs, on crashing file systems (segment/vfs/crashfs) and a network in memory
// (transporttest), in a bubble of testing/synctest, so that ten seconds of faults
// take a fraction of one. The parts that are models: the network, the disks and
// the metadata group's store (metamodel). Clients offer batches to replicas and read
// from them as a broker's handlers do; the group coordinators are the real ones
// (server/groups). The Kafka protocol, rebalances and processes are the business of
// cmd/internal/durability and cmd/soak.
//
// # What is where
//
//	cluster.go   nodes: their disks, and the processes that start and end on them
//	load.go      clients: idempotent and plain producers, readers
//	mischief.go  the faults, and how they are drawn
//	disks.go     those of disks
//	model.go     a partition's history, and when it is linearizable
//	groups.go    consumer groups, which commit positions and fetch them
//	trims.go     trims of a partition's beginning, and what they promise
//	run.go       a run from its start to its verdict
//	trace.go     what happened in it
//
// # The faults
//
// Crashes of one node, of two, and of all at one moment: the machine loses or tears
// what it had not synced, or only the process dies. Graceful stops. Isolated nodes,
// links that are dead one way, refused and reset connections, slow and full disks,
// flipped bits. A leader that is alone, is written to, dies with that and comes back. A node
// that loses its replicas' folders or its votes while another is away. Several at
// once: what was crashed stays down into the next faults.
//
// The mux speaks TCP, and gets what TCP gives: a stream arrives in order and whole,
// or it ends. So a lost packet is one that comes late (links change their delay all
// the time), and loss that lasts is silence, after which what was under way still
// arrives. Frames come in another order only between connections: those of the
// classes, and those of both directions. Nothing arrives twice by itself; what
// raft or a client sends again after a reset does.
//
// # The oracle
//
// When all faults are over, writes resume, and the load has ended: the replicas
// agree; the power of all is cut, and each acknowledged event is on a majority of
// the disks; all start again, and every replica's files hold what the ledger of
// cmd/internal/durability says they must, with its marks NL, OI, NP, MN, ND and LV.
// And porcupine finds the whole history of appends and reads of every partition
// linearizable: a record's offset is the number of records before it, and a read of
// a leader that its group confirms sees every record that was acknowledged before the
// read began. The log start is an object of its own: a trim that was answered moves it
// for good, to no more than was asked; replicas may lack what lies below that, and
// nothing else. The position of each group is an object, too: a fetch sees the last
// commit.
//
// # A seed
//
// A seed decides the faults and the load. It does not decide how the scheduler runs
// goroutines, nor raft's time-outs, which come from the global random source. So a
// failing run prints its seed, its trace and how often the seed failed again in ten
// tries; make simulate runs on one processor without asynchronous preemption,
// which keeps runs of a seed alike. A goroutine that waits for a mutex keeps the
// virtual clock from going on: nothing may sleep while it holds one that others
// want. A run that stands still for that reason prints all stacks.
//
// # Bugs that it finds
//
// `make planted` puts bugs into the product (package planted), one after the other,
// and wants each to be found. After how many seeds they were, from five beginnings
// (seeds 1000, 2000, 3000, 4000, 5000):
//
//	commit clamp off                            37   11    4   14   12
//	a sync left out                              1    1    1    1    1
//	checks before Apply instead of at append     1    1    1    1    1
//	incarnation check off                       78   44    3   19    7
//
// It also found one that nobody planted: the failure detector replaces a leader that
// lives on, all of whose connections are reset and refused, before that leader's lease
// is over, and such a one answered a reading with what it last knew. About one fresh
// seed in 140 met it, until leaders confirmed what they answer (Partition.Confirm).
package simulation
