// Package durability puts a cluster under load and judges what it did with the
// records: for the soak test (cmd/soak), which kills broker processes, for the fault
// catalogue against processes (cmd/chaos), and for this package's own tests, which
// cut the power under whole brokers.
//
// # The load
//
// Every record holds an [Event]: its producer, its partition and a number that
// counts from 0 for each pair of the two, so that the [Ledger] can remember what
// a client was told about it in 8 bytes.
//
//	Producer   idempotent, acks=all, through franz-go; tries until it is answered
//	Plain      one batch at a time, sent once: a definite error is held against the
//	           log. Now and then its batch is one that must be refused.
//	Reader     every partition from an offset, or from the end, without a group
//	Group      members of a consumer group, which commit
//	Watch      log ends and committed positions, as clients are told them
//
// # The oracle
//
// What must hold, by the marks of the fault catalogue:
//
//	NL  an acknowledged record is at its offset, on every replica
//	OI  an offset has one value: on all replicas, and at every reading
//	NP  a record whose produce got a definite error is nowhere
//	MN  log ends and committed positions never go back; readers never skip
//	ND  no record of an idempotent producer is there twice, and each producer's
//	    records of a partition are in the order in which it sent them
//	LV  writes resume within 5 s of a majority being ready
//
// [Ledger.Check] reads the segment files of a replica themselves, so that it sees
// what no consumer is given; [Faults] collects what did not hold.
package durability
