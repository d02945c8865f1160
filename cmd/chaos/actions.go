//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/segment/vfs"
)

const (
	// questionLimit bounds one question of a scenario's own client.
	questionLimit = time.Second
	// leaderLimit bounds the wait for a leader that clients are told of.
	leaderLimit = 30 * time.Second
	// resumeLimit bounds the wait for writes; the promise is checked behind it.
	resumeLimit = time.Minute
)

// figure is something that was measured, once or more.
type figure struct {
	name  string
	times []time.Duration
	text  string // instead of times
}

// String is the figure's row.
func (f figure) String() string {
	if f.text != "" {
		return fmt.Sprintf("%-58s %s", f.name, f.text)
	}
	sorted := slices.Sorted(slices.Values(f.times))
	if len(sorted) == 1 {
		return fmt.Sprintf("%-58s %6d ms", f.name, sorted[0].Milliseconds())
	}
	return fmt.Sprintf("%-58s %6d ms median, %6d ms longest of %d", f.name,
		sorted[len(sorted)/2].Milliseconds(), sorted[len(sorted)-1].Milliseconds(), len(sorted))
}

// note adds a measurement to the figure of that name.
func (s *stage) note(name string, took time.Duration) {
	i := slices.IndexFunc(s.figures, func(f figure) bool { return f.name == name })
	if i < 0 {
		s.figures = append(s.figures, figure{name: name, times: []time.Duration{took}})
		return
	}
	s.figures[i].times = append(s.figures[i].times, took)
}

// tell adds a figure that is no time.
func (s *stage) tell(name, format string, args ...any) {
	s.figures = append(s.figures, figure{name: name, text: fmt.Sprintf(format, args...)})
}

// resumed checks that writes go on in time, and notes how soon.
func (s *stage) resumed(ctx context.Context, since time.Time, after string) {
	waiting, cancel := context.WithTimeout(ctx, resumeLimit)
	defer cancel()
	s.note("writes go on after "+after, s.load.MustResume(waiting, since, after))
}

// state is what a topic's metadata says: by partition the leader (0: none) and its
// epoch.
type state struct {
	leaders []int
	epochs  []int
}

// look asks the brokers that can answer for the metadata of a topic, one after the
// other: a client's own patience with one that is silent is not to be measured here.
func (s *stage) look(ctx context.Context, name string) (state, error) {
	var faults []error
	for _, n := range s.others(s.unable()...) {
		st, err := s.lookAt(ctx, n, name)
		if err == nil {
			return st, nil
		}
		faults = append(faults, fmt.Errorf("metadata from broker %d: %w", n, err))
	}
	return state{}, errors.Join(faults...)
}

// lookAt asks one broker.
func (s *stage) lookAt(ctx context.Context, n int, name string) (state, error) {
	asking, cancel := context.WithTimeout(ctx, questionLimit)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	wanted := kmsg.NewMetadataRequestTopic()
	wanted.Topic = kmsg.StringPtr(name)
	req.Topics = append(req.Topics, wanted)
	resp, err := req.RequestWith(asking, s.client.Broker(n))
	if err != nil {
		return state{}, err
	}
	if len(resp.Topics) != 1 {
		return state{}, fmt.Errorf("%d topics instead of one", len(resp.Topics))
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return state{}, err
	}
	count := len(resp.Topics[0].Partitions)
	st := state{leaders: make([]int, count), epochs: make([]int, count)}
	for _, p := range resp.Topics[0].Partitions {
		if p.Partition < 0 || int(p.Partition) >= count {
			return state{}, fmt.Errorf("partition %d of %d", p.Partition, count)
		}
		st.epochs[p.Partition] = int(p.LeaderEpoch)
		if p.ErrorCode == 0 && p.Leader >= 1 && int(p.Leader) <= s.cluster.Nodes() {
			st.leaders[p.Partition] = int(p.Leader)
		}
	}
	return st, nil
}

// unable are the brokers that cannot answer.
func (s *stage) unable() (ns []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 1; n <= s.cluster.Nodes(); n++ {
		if s.paused[n] || s.unplugged[n] || !s.cluster.Running(n) {
			ns = append(ns, n)
		}
	}
	return ns
}

// plug puts a broker's cable in, or pulls it.
func (s *stage) plug(n int, in bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unplugged[n] = !in
	return s.world.plug(n, in)
}

// leader is who leads a partition, as clients are told; it is asked for until there
// is one that is not among the given.
func (s *stage) leader(ctx context.Context, name string, partition int, not ...int) (int, error) {
	waiting, cancel := context.WithTimeout(ctx, leaderLimit)
	defer cancel()
	for {
		st, err := s.look(waiting, name)
		if err == nil && partition < len(st.leaders) && st.leaders[partition] != 0 && !slices.Contains(not, st.leaders[partition]) {
			return st.leaders[partition], nil
		}
		if !rest(waiting, 20*time.Millisecond) {
			return 0, errors.Join(fmt.Errorf("%s partition %d has no leader but %v: %w", name, partition, not, waiting.Err()), err)
		}
	}
}

// elections is how many terms have begun in the topic's partitions.
func (s *stage) elections(ctx context.Context) (int, error) {
	waiting, cancel := context.WithTimeout(ctx, leaderLimit)
	defer cancel()
	for {
		st, err := s.look(waiting, topic)
		if err == nil && !slices.Contains(st.leaders, 0) {
			sum := 0
			for _, epoch := range st.epochs {
				sum += epoch
			}
			return sum, nil
		}
		if !rest(waiting, 50*time.Millisecond) {
			return 0, errors.Join(waiting.Err(), err)
		}
	}
}

// waitInStep waits until every replica's files hold what is committed now; it says
// what is missing when ctx ends. The in-sync set of the metadata would not do: a
// replica stays in it for a while after it fell behind.
func (s *stage) waitInStep(ctx context.Context) string {
	ends, err := s.load.Ends(ctx)
	if err != nil {
		return err.Error()
	}
	return s.waitReached(ctx, ends)
}

// waitReached waits until every replica's files reach the log ends.
func (s *stage) waitReached(ctx context.Context, ends []int64) string {
	for {
		missing := s.behind(ends)
		if missing == "" || !rest(ctx, 50*time.Millisecond) {
			return missing
		}
	}
}

// behind names a replica that does not reach the log ends.
func (s *stage) behind(ends []int64) string {
	for n := 1; n <= s.cluster.Nodes(); n++ {
		replicas, err := durability.FindReplicas(vfs.OS(), s.cluster.DataDir(n), n, topic)
		if err != nil {
			return err.Error()
		}
		if len(replicas) != partitions {
			return fmt.Sprintf("broker %d has %d replicas", n, len(replicas))
		}
		for _, r := range replicas {
			if !r.Reaches(ends[r.Partition]) {
				return fmt.Sprintf("%s does not reach offset %d", r, ends[r.Partition])
			}
		}
	}
	return ""
}

// others are all brokers but one, in order.
func (s *stage) others(not ...int) []int {
	var ns []int
	for n := 1; n <= s.cluster.Nodes(); n++ {
		if !slices.Contains(not, n) {
			ns = append(ns, n)
		}
	}
	return ns
}

// pause stops a broker's process as it is (SIGSTOP); resume lets it go on.
func (s *stage) pause(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signalLocked(n, true)
}

func (s *stage) resume(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signalLocked(n, false)
}

func (s *stage) signalLocked(n int, pause bool) error {
	how := syscall.SIGCONT
	if pause {
		how = syscall.SIGSTOP
	}
	pid := s.cluster.Pid(n)
	if pid == 0 {
		delete(s.paused, n)
		return nil
	}
	if err := syscall.Kill(pid, how); err != nil {
		return fmt.Errorf("%v for broker %d: %w", how, n, err)
	}
	if pause {
		s.paused[n] = true
	} else {
		delete(s.paused, n)
	}
	return nil
}

// restart starts a broker and waits until it is ready.
func (s *stage) restart(ctx context.Context, n int) error {
	if err := s.cluster.StartNode(n); err != nil {
		return err
	}
	return s.cluster.WaitReady(ctx, n)
}

// both cuts or heals the links between two brokers in both directions.
func both(a, b int) []link { return []link{{a, b}, {b, a}} }

// apart are the links between two sets of brokers, in both directions.
func apart(some, others []int) (links []link) {
	for _, a := range some {
		for _, b := range others {
			links = append(links, both(a, b)...)
		}
	}
	return links
}

// mustStayUp breaks a promise if a broker that must live through a fault has ended.
func (s *stage) mustStayUp(n int, during string) {
	if !s.cluster.Running(n) {
		s.faults.Add(durability.CE, "broker %d ended: %s", n, during)
	}
}

// brittle is a connection that breaks now and then, after a request was written and
// before its answer is read.
type brittle struct{ net.Conn }

// brokenReads is how many of a thousand reads break.
const brokenReads = 3

func brittleDialer(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return brittle{c}, nil
}

// Read breaks the connection instead of reading, at times.
func (c brittle) Read(b []byte) (int, error) {
	if rand.IntN(1000) < brokenReads {
		c.Close()
	}
	return c.Conn.Read(b)
}
