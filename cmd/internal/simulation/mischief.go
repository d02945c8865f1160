package simulation

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// mischief breaks things, as its random numbers say. It is one goroutine.
type mischief struct {
	*cluster
	load  *load
	rng   *rand.Rand
	count map[string]int // how often each step was made
}

// step is a fault that begins, lasts and ends; a process that it ends stays down
// until a later step, or the end, starts it.
type step struct {
	name   string
	weight int // its share of all
	do     func(*mischief) error
}

// steps are what can happen. What a mux over TCP can see of a bad network is in
// the package comment.
var steps = []step{
	{"a node is crashed", 4, (*mischief).crashOne},
	{"two nodes are crashed", 2, (*mischief).crashTwo},
	{"the power of all is cut", 2, (*mischief).powerCut},
	{"a node is stopped gracefully", 2, (*mischief).gracefulRestart},
	{"a node is isolated", 4, (*mischief).isolate},
	{"links are dead one way", 3, (*mischief).oneWay},
	{"two nodes refuse each other", 2, (*mischief).cut},
	{"connections are reset", 1, (*mischief).reset},
	{"links are slow, and change", 2, (*mischief).jitter},
	{"bits flip on the way", 1, (*mischief).flipBits},
	{"a disk is slow", 3, (*mischief).slowDisk},
	{"a disk is full", 2, (*mischief).fullDisk},
	{"a lone leader is written to, dies and comes back", 3, (*mischief).oldLeader},
	{"a replica loses its folder or votes", 1, (*mischief).loseReplica},
}

// run makes so many faults.
func (m *mischief) run(times int) error {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	for range times {
		pick := m.rng.IntN(total)
		for _, s := range steps {
			if pick -= s.weight; pick < 0 {
				m.count[s.name]++
				if err := s.do(m); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				break
			}
		}
		m.load.burst.Store(m.rng.IntN(4) == 0)
		m.sleep(50, 800)
		if m.rng.IntN(3) > 0 {
			if err := m.startAll(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sleep waits for some milliseconds of the virtual clock.
func (m *mischief) sleep(least, most int) {
	time.Sleep(time.Duration(least+m.rng.IntN(most-least)) * time.Millisecond)
}

// victim is a node, more often than not the leader of some partition.
func (m *mischief) victim() *node {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	if leader := m.leader(int32(m.rng.IntN(len(m.topic.Partitions)))); leader != nil && m.rng.IntN(2) == 0 {
		return leader
	}
	return n
}

// others are all nodes but one.
func (m *mischief) others(n *node) []*node {
	return slices.DeleteFunc(slices.Clone(m.nodes), func(o *node) bool { return o == n })
}

// end is how a process ends: the power of its machine is cut, or it alone dies.
func (m *mischief) end(n *node) {
	o, how := crashfs.CrashOptions{}, "the power is cut"
	if m.rng.IntN(3) == 0 {
		o.Keep, how = crashfs.KeepEverything, "the process is killed"
	}
	m.trace.add("%s: %s", n, how)
	n.crash(o)
}

func (m *mischief) startAll() error {
	for _, n := range m.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}

func (m *mischief) crashOne() error {
	n := m.victim()
	m.end(n)
	m.sleep(10, 1500)
	if m.rng.IntN(2) == 0 {
		return n.start()
	}
	return nil
}

func (m *mischief) crashTwo() error {
	n := m.victim()
	m.end(n)
	m.sleep(1, 600)
	m.end(m.others(n)[m.rng.IntN(2)])
	m.sleep(10, 1500)
	return nil
}

// powerCut is the end of all machines at one moment: none of them says anything
// after the first has lost what it had not synced.
func (m *mischief) powerCut() error {
	m.trace.add("the power of all is cut")
	m.cutAll(crashfs.CrashOptions{})
	m.sleep(10, 500)
	for _, i := range m.rng.Perm(len(m.nodes)) {
		if err := m.nodes[i].start(); err != nil {
			return err
		}
		m.sleep(1, 400)
	}
	return nil
}

// cutAll ends all processes at one moment.
func (c *cluster) cutAll(o crashfs.CrashOptions) {
	var stopped []*process
	for _, n := range c.nodes {
		stopped = append(stopped, n.stopHearing())
		c.network.Kill(n.host())
	}
	for _, n := range c.nodes {
		n.disk.Crash(o)
	}
	for _, p := range stopped {
		if p != nil {
			p.close()
		}
	}
}

func (m *mischief) gracefulRestart() error {
	n := m.victim()
	m.trace.add("%s stops gracefully", n)
	if err := n.shutdown(); err != nil {
		m.trace.add("%s: stop: %v", n, err)
	}
	m.sleep(10, 500)
	return n.start()
}

// isolate takes a node off the network, in both directions, without a reset.
func (m *mischief) isolate() error {
	n := m.victim()
	m.trace.add("%s is isolated", n)
	for _, o := range m.others(n) {
		m.network.Drop(n.host(), o.host())
		m.network.Drop(o.host(), n.host())
	}
	m.sleep(100, 3000)
	m.heal()
	return nil
}

// oneWay loses what one node sends to another, or to all others.
func (m *mischief) oneWay() error {
	n := m.victim()
	to := m.others(n)
	if m.rng.IntN(2) == 0 {
		to = to[:1]
	}
	inward := m.rng.IntN(2) == 0
	m.trace.add("%s is cut off one way: %v, inward %v", n, to, inward)
	for _, o := range to {
		if inward {
			m.network.Drop(o.host(), n.host())
		} else {
			m.network.Drop(n.host(), o.host())
		}
	}
	m.sleep(100, 3000)
	m.heal()
	return nil
}

// cut refuses and resets the connections of two nodes.
func (m *mischief) cut() error {
	n := m.victim()
	o := m.others(n)[m.rng.IntN(2)]
	m.trace.add("%s and %s refuse each other", n, o)
	m.network.Cut(n.host(), o.host())
	m.network.Cut(o.host(), n.host())
	m.sleep(100, 3000)
	m.heal()
	return nil
}

func (m *mischief) reset() error {
	for range 1 + m.rng.IntN(5) {
		n := m.victim()
		o := m.others(n)[m.rng.IntN(2)]
		m.trace.add("connections of %s and %s are reset", n, o)
		m.network.Reset(n.host(), o.host())
		m.sleep(1, 200)
	}
	return nil
}

// jitter changes the delay of all links many times: packets that are lost and sent
// again are a delay to what reads a stream.
func (m *mischief) jitter() error {
	most := 2 + m.rng.IntN(150)
	m.trace.add("links take up to %d ms, changing", most)
	for range 20 {
		for _, n := range m.nodes {
			for _, o := range m.others(n) {
				m.network.Delay(n.host(), o.host(), time.Duration(m.rng.IntN(most))*time.Millisecond)
			}
		}
		m.sleep(5, 100)
	}
	m.heal()
	return nil
}

// flipBits damages a few writes on their way.
func (m *mischief) flipBits() error {
	n := m.victim()
	o := m.others(n)[m.rng.IntN(2)]
	m.trace.add("bits flip between %s and %s", n, o)
	for range 3 {
		m.network.Corrupt(n.host(), o.host())
		m.sleep(10, 200)
	}
	m.heal()
	return nil
}

// oldLeader is the sequence that leaves a replica with the longest divergent end: a
// leader that hears nobody goes on taking batches, dies with them on its disk,
// while the others go on, and comes back.
func (m *mischief) oldLeader() error {
	n := m.leader(int32(m.rng.IntN(len(m.topic.Partitions))))
	if n == nil {
		return nil
	}
	m.trace.add("%s leads, hears nobody and is written to", n)
	m.load.burst.Store(true)
	for _, o := range m.others(n) {
		m.network.Drop(n.host(), o.host())
		m.network.Drop(o.host(), n.host())
	}
	m.sleep(20, 500)
	m.trace.add("%s: the process is killed", n)
	n.crash(crashfs.CrashOptions{Keep: crashfs.KeepEverything})
	m.heal()
	m.sleep(500, 3000)
	return n.start()
}

// loseReplica takes from one node, once a run, what a replica consists of, while it
// and one of the others are down: for it to speak as its old self would give the
// two that are up a majority without what the third knows.
func (m *mischief) loseReplica() error {
	if slices.ContainsFunc(m.nodes, func(n *node) bool { return n.lost }) {
		return nil
	}
	p := int32(m.rng.IntN(len(m.topic.Partitions)))
	leader := m.leader(p)
	if leader == nil {
		return nil
	}
	rest := m.others(leader)
	behind, loser := rest[0], rest[1]
	m.trace.add("%s is away", behind)
	m.end(behind)
	m.sleep(100, 1000) // the leader and the loser go on
	m.end(loser)
	m.end(leader)
	if err := m.takeAway(loser); err != nil {
		return err
	}
	for _, n := range []*node{loser, behind} {
		if err := n.start(); err != nil {
			return err
		}
	}
	m.sleep(500, 4000)
	return leader.start()
}

// takeAway removes from a stopped node the folders of all its replicas, the votes,
// or both.
func (m *mischief) takeAway(n *node) error {
	n.lost = true
	folders, votes := true, true
	switch m.rng.IntN(3) {
	case 0:
		folders = false
	case 1:
		votes = false
	}
	m.trace.add("%s loses folders: %v, votes: %v", n, folders, votes)
	if folders {
		if err := n.disk.RemoveAll(filepath.Join(dataDir, "topics", topic)); err != nil {
			return fmt.Errorf("take the replicas away: %w", err)
		}
	}
	if votes {
		if err := n.disk.Remove(filepath.Join(dataDir, "votes.log")); err != nil {
			return fmt.Errorf("take the votes away: %w", err)
		}
	}
	return nil
}

// heal ends all faults of the network; links are never without a delay.
func (m *mischief) heal() {
	m.network.RestoreAll()
	m.cluster.latency()
	m.trace.add("the network is whole")
}

// latency gives every link its ordinary delay: without one no time would pass.
func (c *cluster) latency() {
	for _, n := range c.nodes {
		for _, o := range c.nodes {
			c.network.Delay(n.host(), o.host(), time.Millisecond)
		}
	}
}
