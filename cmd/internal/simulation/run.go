package simulation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

const (
	// recovery is how long, by the virtual clock, a healed cluster may take until all
	// of it serves: raft's longest pause after failures is 10 s.
	recovery = 90 * time.Second
	// checkLimit is how long, by the real clock, porcupine may think.
	checkLimit = 20 * time.Second
)

// Result is what a run did.
type Result struct {
	// Counts are the outcomes of produce.
	Counts durability.Counts
	// Operations is how many of them and of the reads were checked for linearizability.
	Operations int
	// Commits is how many commits and fetches of groups were checked likewise.
	Commits int
	// Trims is how many trims were confirmed.
	Trims int
	// Steps counts the faults by their names.
	Steps map[string]int
	// Trace is what happened, a line an event.
	Trace string
	// Err is every promise that was broken, nil if none was.
	Err error

	broken    error // Err, but for the histories
	histories []*history
	positions []*positionHistory
	logs      string
}

// simulate is one run; it must be called in a bubble of testing/synctest. The
// histories are still to be judged, outside of the bubble, since porcupine's time
// limit is real.
func simulate(seed uint64) *Result {
	s := &simulation{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), trace: newTrace(), faults: durability.NewFaults(),
		steps: map[string]int{},
	}
	s.cluster = newCluster(seed, s.trace, s.faults)
	s.ledger = durability.NewLedger(uint32(seed), s.faults)
	partitions := 1 + s.rng.IntN(2)
	s.load = newLoad(s.cluster, uint32(seed), s.ledger, partitions)
	err := s.run(partitions)
	s.stop()
	err = errors.Join(err, s.faults.Err())
	return &Result{
		Counts: s.ledger.Counts(), Trace: s.trace.String(), Err: err, broken: err,
		Steps: s.steps, histories: s.load.histories, positions: s.load.positions, logs: s.logs,
	}
}

// judge checks the histories of a run that ended.
func (r *Result) judge() {
	for p, h := range r.histories {
		if h.final == nil {
			continue // the run failed before anybody could say what became of the unknown
		}
		n, err := h.linearizable(checkLimit)
		r.Operations += n
		r.Trims += h.trims()
		starts, startErr := h.startLinearizable(checkLimit)
		r.Operations += starts
		if err = errors.Join(err, startErr); err != nil {
			r.Err = errors.Join(r.Err, fmt.Errorf("partition %d: %w", p, err))
		}
	}
	r.judgePositions()
}

// judgePositions checks what the groups' clients saw.
func (r *Result) judgePositions() {
	for _, h := range r.positions {
		n, err := h.linearizable(checkLimit)
		r.Commits += n
		r.Err = errors.Join(r.Err, err)
	}
}

// simulation is one run.
type simulation struct {
	seed    uint64
	rng     *rand.Rand
	trace   *trace
	faults  *durability.Faults
	ledger  *durability.Ledger
	cluster *cluster
	load    *load
	steps   map[string]int // what was done to it, by name
	logs    string
}

// run does all of it: a cluster, load, faults, healing, and the checks.
func (s *simulation) run(partitions int) error {
	s.cluster.latency()
	m := &mischief{cluster: s.cluster, load: s.load, rng: s.rng, count: s.steps}
	if err := m.startAll(); err != nil {
		return err
	}
	if err := s.cluster.ready(recovery); err != nil {
		return err
	}
	var err error
	if s.cluster.topic, err = s.cluster.create(topic, partitions, s.configs(), s.rng.Uint64); err != nil {
		return err
	}
	if _, err := s.cluster.create(positionsTopic, 1, nil, s.rng.Uint64); err != nil {
		return err
	}
	s.load.start(s.seed)
	if err := errors.Join(s.settled("the start"), m.run(3+s.rng.IntN(6))); err != nil {
		return err
	}
	m.heal()
	if err := m.startAll(); err != nil {
		return err
	}
	if err := s.settled("the last fault"); err != nil {
		return err
	}
	if err := s.endLoad(); err != nil {
		return err
	}
	return s.verify(m)
}

// settled waits until everything serves and each partition acknowledges again.
func (s *simulation) settled(after string) error {
	if err := s.cluster.ready(recovery); err != nil {
		s.faults.Add(durability.LV, "after %s: %v", after, err)
		return err
	}
	limit := time.Now().Add(recovery)
	for p := range s.load.histories {
		for before := s.ledger.AckedEnd(int32(p)); s.ledger.AckedEnd(int32(p)) <= before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				s.faults.Add(durability.LV, "partition %d acknowledges nothing %v after %s", p, recovery, after)
				return errors.New("the cluster does not serve")
			}
		}
	}
	s.trace.add("settled after %s: %+v", after, s.ledger.Counts())
	return nil
}

// endLoad lets the clients have their answers.
func (s *simulation) endLoad() error {
	close(s.load.finish)
	done := make(chan struct{})
	go func() {
		s.load.wait.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-time.After(recovery):
		s.faults.Add(durability.LV, "a producer had no answer %v after the last fault", recovery)
		return errors.New("the load does not end")
	}
}

// verify holds the replicas against the ledger: as they agree among themselves,
// as a power cut of all leaves them, and as they serve after it.
func (s *simulation) verify(m *mischief) error {
	ends, err := s.inStep()
	if err != nil {
		return err
	}
	s.trace.add("the power of all is cut, at the end")
	s.cluster.cutAll(crashfs.CrashOptions{})
	replicas, err := s.replicas()
	if err != nil {
		return err
	}
	for p := range ends {
		s.ledger.CheckMajority(int32(p), replicas[p], members)
	}
	if err := m.startAll(); err != nil {
		return err
	}
	if err := s.cluster.ready(recovery); err != nil {
		s.faults.Add(durability.LV, "after the last power cut: %v", err)
		return err
	}
	if err := s.lastReadings(ends); err != nil {
		return err
	}
	s.stopNodes()
	if replicas, err = s.replicas(); err != nil {
		return err
	}
	for p, end := range ends {
		contents := s.ledger.CheckAll(replicas[p], end)
		if len(contents) == 0 {
			return fmt.Errorf("no replica of partition %d is left", p)
		}
	}
	return nil
}

// inStep waits until all replicas that are in their group have applied the same,
// and returns the high watermarks.
func (s *simulation) inStep() ([]int64, error) {
	ends := make([]int64, len(s.load.histories))
	for limit := time.Now().Add(recovery); ; time.Sleep(20 * time.Millisecond) {
		if s.agree(ends) {
			return ends, nil
		}
		if time.Now().After(limit) {
			s.faults.Add(durability.LV, "the replicas are not in step %v after the load ended", recovery)
			return nil, errors.New("the replicas are not in step")
		}
	}
}

func (s *simulation) agree(ends []int64) bool {
	for p := range ends {
		end, begin, first := int64(0), segment.Offset(0), true
		for _, n := range s.cluster.nodes {
			r, _ := n.replica(int32(p))
			if r == nil && n.lost {
				continue
			}
			if r == nil || r.Log().HighWatermark() != r.Log().NextOffset() {
				return false
			}
			own, start := int64(r.Log().HighWatermark()), r.Log().StartOffset()
			if first {
				end, begin, first = own, start, false
			} else if own != end || start != begin {
				return false
			}
		}
		if ends[p] = end; end < s.ledger.AckedEnd(int32(p)) {
			s.faults.Add(durability.NL, "partition %d ends at %d on all replicas, acknowledged up to %d", p, end, s.ledger.AckedEnd(int32(p)))
		}
	}
	return true
}

// lastReadings reads everything of every partition from its leader, and decides by
// that about what was never answered.
func (s *simulation) lastReadings(ends []int64) error {
	for p, end := range ends {
		c := &client{load: s.load, id: int(s.load.clients.Add(1)), rng: s.rng}
		limit := time.Now().Add(recovery)
		for !c.readOnce(int32(p), end) {
			if time.Now().After(limit) {
				s.faults.Add(durability.LV, "partition %d has no ready leader after the last power cut", p)
				return errors.New("nobody can be read from")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return s.lastPositions()
}

// lastPositions fetches every group's position once more.
func (s *simulation) lastPositions() error {
	for _, h := range s.load.positions {
		c := &client{load: s.load, id: int(s.load.clients.Add(1)), rng: s.rng}
		for limit := time.Now().Add(recovery); ; time.Sleep(20 * time.Millisecond) {
			if p := c.coordinator(); p != nil && c.fetchPosition(h, p) {
				break
			}
			if time.Now().After(limit) {
				s.faults.Add(durability.LV, "%s has no coordinator after the last power cut", h.group)
				return errors.New("nobody coordinates the groups")
			}
		}
	}
	return nil
}

// replicas finds the folders of all partitions on the nodes that lost nothing.
func (s *simulation) replicas() ([][]durability.Replica, error) {
	byPartition := make([][]durability.Replica, len(s.load.histories))
	for _, n := range s.cluster.nodes {
		if n.lost {
			continue
		}
		found, err := durability.FindReplicas(n.disk, dataDir, int(n.id), topic)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			byPartition[r.Partition] = append(byPartition[r.Partition], r)
		}
	}
	for p, replicas := range byPartition {
		found := s.load.histories[p].sightings()
		if len(replicas) > 0 {
			if err := replicas[0].Walk(s.load.run, func(offset int64, e durability.Event) { found[value(e)] = offset }); err != nil {
				return nil, err
			}
		}
		s.load.histories[p].final = found
	}
	return byPartition, nil
}

// stop joins everything that the run started: a bubble must be empty when it ends.
func (s *simulation) stop() {
	if !closed(s.load.finish) {
		close(s.load.finish)
	}
	close(s.load.giveUp)
	s.load.wait.Wait()
	s.stopNodes()
	for _, h := range s.load.histories {
		h.complete()
	}
}

func (s *simulation) stopNodes() {
	for _, n := range s.cluster.nodes {
		if p := n.stopHearing(); p != nil {
			s.cluster.network.Kill(n.host())
			p.close()
			s.logs += fmt.Sprintf("log of %s:\n%s", n, p.log)
		}
	}
}
