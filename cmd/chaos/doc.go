// Chaos plays the fault catalogue against real broker processes: the program behind
// make chaos.
//
// Each scenario gets a cluster of three to five brokers of its own, with writers,
// consumers and watches at work (package durability), has its way with them, heals
// everything, and is judged by what the clients were told and by the segment files
// of all replicas. Every broker runs in a network namespace with an address of its
// own, so that single links can be cut in one direction, and on a small disk of its
// own where a scenario wants to fill or to freeze it. A link is delayed, or its bytes
// damaged, by a proxy in this process.
//
// It needs Linux, root, and the commands ip, nft, mkfs.ext4 and mount; what
// is missing is named. It ends with a table of all scenarios, the list of those that
// processes cannot show with the reason, and one line, "chaos: ok ..." or
// "chaos: FAILED ..." with a non-zero exit code, 130 after Ctrl-C. What it set up is
// removed in any case, the data of a failed scenario is kept and its folder named.
//
// The files: scenario.go lists the scenarios, which are in crash.go, disk.go,
// network.go, pause.go and membership.go; leftout.go lists the others. stage.go sets
// the cluster of a scenario up and judges it, actions.go is what a scenario can do.
// world_linux.go has the namespaces, volume_linux.go the disks, proxy.go the proxies.
package main
