// Package seeding copies the sealed segments of a partition's log from one broker to
// another (DESIGN 4.5), on the connection that transport keeps apart for it. What is
// copied, and how it is checked and made a log, is package log's: Seed, SeedSource,
// Staging.
//
//	wire.go    the two requests: describe a seed, read a part of a file of it
//	server.go  Server answers them at the broker that gives
//	fetch.go   Fetch asks them at the broker that takes
//
// The taker pulls: one read at a time, of at most MaxRead bytes, so that it costs either
// side a few buffers, and ends when nobody wants it any more. Both sides may throttle,
// each with one limiter for the whole broker (NewThrottle).
//
// A copy goes on where it was after a connection broke, after the giver restarted, and,
// since segments and not copies of them are asked for, also when it gives something else
// by then: a trim took segments away, or a cut opened the last one again. Then the taker
// gets a new description, and Staging keeps what fits it.
//
// A replica gives only what it has applied, so what is committed: any replica may be
// asked, also one that is behind. Whether it is far enough is for the caller to see, in
// the Seed's Index and Term.
//
// Package replication asks for it when a leader's log begins behind what a follower
// needs, see its seed.go.
package seeding
