// Package server is a Millrace broker: it speaks the Kafka protocol to clients
// over the partitions of package replication.
//
// # A request's way
//
//	socket ── reader ──────────────────────────► calls ──► answerer ── socket
//	          length checked, memory taken,      (queue,   runs or finishes one
//	          header and body walked, decoded     bounded)  call after the other
//	             │ Produce only                              ▲
//	             └─► prepare ─► queue in order ─► committed ─┘
//	                 (check, compress)
//
// Each connection has two goroutines. The reader (conn.go) checks a frame's
// length before anything is allocated, takes its memory from the node's budget,
// walks the body against its shape (scan.go) and only then lets kmsg decode it.
// The answerer runs the handlers one after the other, so answers keep the order
// of requests. Produce begins on the reader's side (00_produce.go): each request
// has a goroutine that checks and compresses while earlier ones wait for the
// disk, and offers its batches to the partitions when the request before it has;
// it overtakes nothing but a long poll.
//
// # The files
//
// One file an API key, named by the key: 00_produce.go, 01_fetch.go and so on.
// api.go has the one table of them; dispatch, ApiVersions and the tests are made
// from it. Beside the handlers:
//
//   - broker.go, config.go   a whole broker: Open, Close, Kill
//   - listener.go, conn.go   connections, limits and time-outs
//   - frame.go, scan.go, shapes.go   what comes in, before it is decoded
//   - answer.go, sendfile_*.go       what goes out; segment files by sendfile
//   - fetch_encode.go, fetch_session.go, inflate.go   the parts of Fetch
//   - batch.go, refusals.go          the parts of Produce
//   - creation.go            new topics, asked for or automatic
//   - configkey.go, brokerconfig.go, topicconfig.go   the configuration keys
//   - cluster.go, host.go    what the handlers need of the layer below
//   - groups.go              the coordinators of package groups, wired up
//   - errors.go              errors and the Kafka codes they become
//   - http.go                health, version, profiles
//
// # Rules
//
// An error code is a promise. What may be in the log is never answered with a
// code that says it is not (errors.go); OFFSET_OUT_OF_RANGE, which makes
// consumers jump, is said by a ready leader only; and a leader is ready only when
// its no-op is applied, because before that its high watermark may lie below
// records that were acknowledged.
//
// No length or count from the network is believed: frames are allocated, and their
// memory taken, as their bytes arrive (budget.go); only Produce may be large; bodies are walked before they are decoded, decompression is
// bounded by its output, and memory is taken from budgets of the node. What a
// client sends can end its own connection, never the broker: handlers run under
// recover.
//
// Bytes of a segment file are sent as they are, from the file, once their
// checksum was verified. The file is never changed after that (package segment),
// because the socket refers to its pages after sendfile has returned.
package server
