//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
)

// scenario is one line of the fault catalogue.
type scenario struct {
	// number is the line's: C crash, D disk, N network, T clock and pause, M
	// membership, K clients.
	number string
	title  string
	// brokers is how many there are; 0 means three.
	brokers int
	// volumes: every broker's folder is on a disk of its own, which can be filled
	// and frozen.
	volumes bool
	// proxied: brokers reach each other through proxies, which can delay and damage.
	proxied bool
	// brittle: connections of clients break, now and then, before an answer is read.
	brittle bool
	// rate is what each of the producers sends, in records a second; 0 means 1,500.
	rate int
	// args are further arguments of every broker.
	args []string
	// play does it. Everything is healed after it, whatever it leaves.
	play func(ctx context.Context, s *stage) error
}

// scenarios are all, in the order in which they are played.
var scenarios = []scenario{
	{number: "C1", title: "SIGKILL of a leader every few seconds", play: killLeaders},
	{number: "C2", title: "SIGKILL of all brokers at once, restart in random order", play: killAll},
	{number: "C5", title: "five brokers: two paused, one killed, then the other two paused", brokers: 5, play: pausedMajorities},
	{number: "C6", title: "SIGKILL during recovery, twenty times in a row", play: killWhileRecovering},
	{number: "C7", title: "SIGTERM of a leader", play: stopLeaders},
	{number: "C8", title: "SIGKILL of the group's coordinator between commits", play: killCoordinators},
	{number: "C10", title: "rolling restart, six rounds", play: rollingRestart},
	{number: "D3", title: "the leader's disk is full, then has space again", volumes: true, play: fullLeader},
	{number: "D4", title: "a follower's disk is full, then has space again", volumes: true, play: fullFollower},
	{number: "D15", title: "the leader's disk hangs", volumes: true, play: hungLeader},
	{number: "D16", title: "a follower's disk hangs for half a minute", volumes: true, play: hungFollower},
	{number: "D17", title: "every sync takes up to 200 ms, on all disks", volumes: true, rate: 200, play: slowDisks},
	{number: "N1", title: "the leader is cut from its followers; clients still reach it", play: isolatedLeader},
	{number: "N2", title: "two brokers cannot reach each other; both reach the third", play: partialCut},
	{number: "N3", title: "frames are lost in one direction, each in turn", play: oneWayCuts},
	{number: "N4", title: "a link flaps, a second on and a second off", play: flappingLink},
	{number: "N5", title: "the minority moves every few seconds", play: movingMinority},
	{number: "N6", title: "100 ms delay with 50 ms jitter and 5% loss between brokers", proxied: true, rate: 200, play: farApart},
	{number: "N7", title: "bytes between brokers are flipped", proxied: true, play: flippedBytes},
	{number: "N8", title: "a broker vanishes without a word", play: silentMachine},
	{number: "N11", title: "clients are cut between request and answer", brittle: true, play: cutClients},
	{number: "T2", title: "the leader is paused for 30 s and wakes up replaced", play: pausedLeader},
	{number: "T3", title: "all brokers are paused for a minute", play: pauseAll},
	{number: "T5", title: "one core for everything, and busy neighbours", play: starved},
	{number: "M7", title: "leadership moves on and on, with kills in between", play: movingLeadership},
	{number: "M11", title: "a broker of another cluster answers at a known address", play: foreignBroker},
}

// list prints what there is.
func list(w io.Writer) {
	for _, sc := range scenarios {
		fmt.Fprintf(w, "%-4s %s\n", sc.number, sc.title)
	}
	printLeftOut(w)
}

// result is what became of a scenario.
type result struct {
	scenario scenario
	began    time.Time
	took     time.Duration
	figures  []figure
	counts   durability.Counts
	err      error
}

// print prints one row, and below it the figures or the reason.
func (r result) print(w io.Writer) {
	verdict := "ok"
	if r.err != nil {
		verdict = "FAILED"
	}
	fmt.Fprintf(w, "%-4s %-6s %5.1f s  %8d acknowledged  %s\n", r.scenario.number, verdict, r.took.Seconds(), r.counts.Acknowledged, r.scenario.title)
	for _, f := range r.figures {
		fmt.Fprintf(w, "       %s\n", f)
	}
	if r.err != nil {
		fmt.Fprintf(w, "       %v\n", r.err)
	}
}
