// Package transport carries everything that the nodes of a cluster say to each
// other. It has two layers: the mux, which connects nodes, and on top of it a
// facade for each raft group, which makes raft's transport of it.
//
// # The mux
//
// One Mux a node (mux.go). To each peer it dials one connection a Class, so that
// entries and segment files never stand in front of a vote:
//
//	node 1                                                    node 2
//	 Call ──> outbox ──> writer ── control ──> reader ──> Handler, a goroutine each
//	   <── answer <───── reader <── control ── writer <── outbox <── Reply
//	 Call ──> ...                  bulk, seed: the same
//	 Handler <── ...               and node 2's own three, for its calls
//
// Requests go out on the connections a node dialled itself, answers come back on
// the same one under the call's id. The control connection to every address of
// SetAddress is dialled at once and kept (peers.go); Up and WatchPeers tell its
// state. The others are dialled by the first call. CallAddress makes a connection
// for one call, for founding and joining, when ids are not known.
//
// Files, from the wire up: frame.go (a frame), handshake.go (who is there),
// outbox.go (frames on their way out), request.go (requests and their memory),
// conn.go (a connection), limits.go (what a peer may cost), peers.go (addresses,
// dialling), accept.go (the listener), watch.go (pings, silence, how often trouble
// is logged), verdict.go (whether a peer lives), suspicion.go (whether others think
// so too), mux.go.
//
// What it promises:
//
//   - Nothing is read into memory before the peer has said who it is; a stranger
//     costs 512 bytes and a goroutine for at most 5 s, and there are at most 128.
//   - No byte that was flipped on the way is acted on: head and body of each frame
//     have a CRC32C, and a connection ends with its first bad frame.
//   - Memory is bounded for each peer, by what is known of it (limits.go). Lengths
//     are checked before anything is allocated, and bodies are allocated as they
//     arrive. Requests being handled are bounded in bytes for each connection (then
//     its reader waits), bytes on their way out as well (then Call waits); answers
//     that a peer does not read end its connection, pings it does not read the
//     answers of cost one frame. Strangers cannot take up the connections, or the
//     memory, of members.
//   - A peer that does not read or does not answer holds up nobody else: every
//     connection has a reader and a writer of its own, and a reader never waits
//     for a handler, only for memory: its own connection's, and for large bodies
//     that of its class.
//   - A call ends: with the answer, its context, its connection, or the mux.
//     Silence of 3 s on a control connection (each side sends a ping each 100 ms)
//     closes all connections with that peer. While a peer is down, calls fail at
//     once.
//   - A request is delivered once or not at all. After ErrConnectionLost, or when
//     the context ends, nobody knows whether it was; the mux sends nothing again.
//     Requests of one caller on one class arrive in order, but their handlers run
//     at the same time.
//   - Close joins every goroutine.
//
// Who is let in (handshake.go): a node of the same cluster, or of none yet; not a
// second node with our own id, not an incarnation that the metadata has replaced
// (SetIncarnation). Incarnations are random, so an unknown one may be a new disk
// that wants to join: whether it may is for the metadata to say. The handshake
// authenticates nobody, it finds mistakes; the port belongs on a private network.
//
// Bodies are handed over. A buffer passed to Call or Reply is sent from where it
// is, perhaps after Call has returned because its context ended, and must never be
// changed again; a body that arrives belongs to the handler or caller.
//
// Locks: Mux.mu (addresses, connections, handlers) may be held while a
// connection's own lock is taken, never the other way round; no lock is held over
// I/O, a handler, or Config.Identity.
//
// # The facades
//
// A Facade (facade.go) is raft's transport for one group, with what DESIGN 4.3
// asks for: entries read from the log as it is on disk, clamped commit indexes,
// held calls, matches in the leader's own term. The Router (router.go) gives
// requests to the facade of their group.
package transport
