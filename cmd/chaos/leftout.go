//go:build linux

package main

import (
	"fmt"
	"io"
)

// leftOut are the lines of the catalogue that are not played here, and why.
var leftOut = []struct{ numbers, why string }{
	{"C3 C4", "power cuts: this machine's disk keeps what was not synced; the tests of log, replication and durability cut the power on a crashing file system"},
	{"C9 K3-K6", "there are no transactions yet"},
	{"C10 with two versions", "there is no released version to mix with"},
	{"C11", "a kill for lack of memory is a SIGKILL: C1; 50 GB of log do not fit into a round"},
	{"D1 D2 D5-D14 D18-D23", "faults inside of files and of single system calls: tests on the fault file system"},
	{"N9", "replayed frames: the simulator (make simulate) duplicates and reorders them"},
	{"N10 M1-M3 M12", "copies of segments cut at every byte: tests of log and replication/seeding"},
	{"T1 T4", "a process cannot be given a wall clock of its own; tests of retention and of the detector with fake clocks"},
	{"M4 M5 M6 M9 M10", "changes of membership while they are under way: tests of replication"},
	{"M8", "a paused target: TestTransfer of replication; C5 and T2 pause targets here"},
}

func printLeftOut(w io.Writer) {
	fmt.Fprintln(w, "left out, as processes cannot show it or something else shows it better:")
	for _, l := range leftOut {
		fmt.Fprintf(w, "  %-22s %s\n", l.numbers, l.why)
	}
}
