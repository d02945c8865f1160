// Package localcluster runs broker processes of Millrace on this machine: for
// the demo, the soak test and make cluster.
//
// A [Cluster] is a folder with one folder a node (n1, n2, ...), each node's
// standard error in n1.log, and its process id in n1.pid. A node is ready when
// its log has a line that begins with "ready"; each start begins the log anew.
//
// Attached processes (the default) are children that die with this process: on
// Linux the kernel sees to that even when this process is killed. Detached ones
// stay; they are found again by their process id and data folder.
package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// readyTimeout bounds how long a node may take until it is ready.
	readyTimeout = 30 * time.Second
	// pollInterval is the pause between two looks at a log or a process.
	pollInterval = 10 * time.Millisecond
	// maxShown bounds how much of a log an error quotes, in bytes.
	maxShown = 2000
)

// Config says what to run.
type Config struct {
	// Binary is the millrace executable.
	Binary string
	// Dir is the folder of the cluster; the data folder of node 1 is n1 in it.
	Dir string
	// Ports are the ports of each node, node 1 first.
	Ports []Ports
	// Hosts are the IP addresses of the nodes, node 1 first; without them all are at
	// 127.0.0.1.
	Hosts []string
	// Args are further arguments of each `millrace server`.
	Args []string
	// NodeArgs, unless nil, gives further arguments of one node; they come last.
	NodeArgs func(n int) []string
	// Wrap, unless nil, gives the command line to run instead of a node's: to run it
	// in a network namespace, for example. The command must become the node (exec),
	// since it is what gets the signals.
	Wrap func(n int, command []string) []string
	// Detached lets the processes outlive this one.
	Detached bool
}

// Cluster is some nodes on this machine. Nodes are counted from 1. Methods may be
// called concurrently for different nodes.
type Cluster struct {
	config Config
	nodes  []*node
	exits  chan Exit
}

// Exit tells that an attached node ended without being told to.
type Exit struct {
	// Node is which one, counted from 1.
	Node int
	// Err says how it ended and what its log said last.
	Err error
}

// node is one attached process.
type node struct {
	mu      sync.Mutex
	command *exec.Cmd
	ended   chan struct{} // closed when the process is gone
	wanted  bool          // its end was asked for
	state   *os.ProcessState
}

// New prepares a cluster; nothing is started.
func New(c Config) (*Cluster, error) {
	if len(c.Ports) == 0 {
		return nil, errors.New("localcluster: no ports")
	}
	if c.Hosts != nil && len(c.Hosts) != len(c.Ports) {
		return nil, fmt.Errorf("localcluster: %d hosts for %d nodes", len(c.Hosts), len(c.Ports))
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("cluster folder: %w", err)
	}
	c.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cluster folder: %w", err)
	}
	cl := &Cluster{config: c, exits: make(chan Exit, 4*len(c.Ports))}
	for range c.Ports {
		cl.nodes = append(cl.nodes, &node{})
	}
	return cl, nil
}

// Nodes is how many nodes there are.
func (c *Cluster) Nodes() int { return len(c.nodes) }

// Addrs are the Kafka addresses of all nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for i, p := range c.config.Ports {
		addrs = append(addrs, c.address(i+1, p.Kafka))
	}
	return addrs
}

// HTTPAddr is the address of a node's readiness and metrics.
func (c *Cluster) HTTPAddr(n int) string { return c.address(n, c.config.Ports[n-1].HTTP) }

// RPCAddr is the address at which other brokers reach a node.
func (c *Cluster) RPCAddr(n int) string { return c.address(n, c.config.Ports[n-1].RPC) }

// DataDir is the data folder of a node.
func (c *Cluster) DataDir(n int) string { return filepath.Join(c.config.Dir, fmt.Sprintf("n%d", n)) }

// LogFile is where the node's standard error goes.
func (c *Cluster) LogFile(n int) string { return c.DataDir(n) + ".log" }

func (c *Cluster) pidFile(n int) string { return c.DataDir(n) + ".pid" }

// Exits tells of attached nodes that ended by themselves.
func (c *Cluster) Exits() <-chan Exit { return c.exits }

// Start starts all nodes that do not run and waits until all are ready. It fails as
// soon as one of them has: the others wait for it, and would until their time is
// over. What it started runs on.
func (c *Cluster) Start(ctx context.Context) error {
	for n := 1; n <= c.Nodes(); n++ {
		if err := c.StartNode(n); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first error
	var failed sync.Once
	var waiting sync.WaitGroup
	for n := 1; n <= c.Nodes(); n++ {
		waiting.Go(func() {
			if err := c.WaitReady(ctx, n); err != nil {
				failed.Do(func() { first = err })
				cancel()
			}
		})
	}
	waiting.Wait()
	return first
}

// StartNode starts a node and does not wait for it.
func (c *Cluster) StartNode(n int) error {
	if c.config.Detached {
		return c.startDetached(n)
	}
	nd := c.nodes[n-1]
	nd.mu.Lock()
	defer nd.mu.Unlock()
	if nd.runningLocked() {
		return nil
	}
	command, err := c.launch(n)
	if err != nil {
		return err
	}
	nd.command, nd.ended, nd.wanted = command, make(chan struct{}), false
	go c.reap(n, nd, command, nd.ended)
	return nil
}

// launch starts the process with its standard error in the log file.
func (c *Cluster) launch(n int) (*exec.Cmd, error) {
	// What the node said before is kept once, for who asks why it ended.
	if err := os.Rename(c.LogFile(n), c.LogFile(n)+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("log of node %d: %w", n, err)
	}
	log, err := os.Create(c.LogFile(n))
	if err != nil {
		return nil, fmt.Errorf("log of node %d: %w", n, err)
	}
	defer log.Close() // the child has its own descriptor
	line := append([]string{c.config.Binary}, c.arguments(n)...)
	if c.config.Wrap != nil {
		line = c.config.Wrap(n, line)
	}
	command := exec.Command(line[0], line[1:]...)
	command.Stdout, command.Stderr = log, log
	command.Env = cleanEnvironment()
	command.SysProcAttr = processAttributes(c.config.Detached)
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start node %d: %w", n, err)
	}
	return command, nil
}

func (c *Cluster) arguments(n int) []string {
	p := c.config.Ports[n-1]
	args := []string{
		"server", "--data-dir", c.DataDir(n), "--node-id", strconv.Itoa(n),
		"--kafka-addr", c.address(n, p.Kafka), "--rpc-addr", c.RPCAddr(n), "--http-addr", c.HTTPAddr(n),
	}
	if c.Nodes() > 1 {
		var join []string
		for i := range c.nodes {
			join = append(join, c.RPCAddr(i+1))
		}
		args = append(args, "--join", strings.Join(join, ","))
	}
	args = append(args, c.config.Args...)
	if c.config.NodeArgs != nil {
		args = append(args, c.config.NodeArgs(n)...)
	}
	return args
}

// address is where a node listens on a port.
func (c *Cluster) address(n, port int) string {
	if c.config.Hosts == nil {
		return loopback(port)
	}
	return net.JoinHostPort(c.config.Hosts[n-1], strconv.Itoa(port))
}

// reap waits for the process; it is the only one that does.
func (c *Cluster) reap(n int, nd *node, command *exec.Cmd, ended chan struct{}) {
	err := command.Wait()
	nd.mu.Lock()
	wanted := nd.wanted
	nd.state = command.ProcessState
	nd.mu.Unlock()
	close(ended)
	if wanted {
		return
	}
	select {
	case c.exits <- Exit{Node: n, Err: fmt.Errorf("broker %d ended by itself (%v): %s", n, err, c.lastWords(n))}:
	default: // nobody listens; the first ones are kept
	}
}

func (nd *node) runningLocked() bool {
	if nd.command == nil {
		return false
	}
	select {
	case <-nd.ended:
		return false
	default:
		return true
	}
}

// WaitReady waits until a node that was started is ready.
func (c *Cluster) WaitReady(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		text, err := os.ReadFile(c.LogFile(n))
		if err == nil && (bytes.HasPrefix(text, []byte("ready")) || bytes.Contains(text, []byte("\nready"))) {
			return nil
		}
		if !c.Running(n) {
			return fmt.Errorf("broker %d did not start: %s", n, c.lastWords(n))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("broker %d is not ready: %w; its log ends with: %s", n, ctx.Err(), c.lastWords(n))
		case <-time.After(pollInterval):
		}
	}
}

// Running reports whether the node's process lives.
func (c *Cluster) Running(n int) bool {
	if c.config.Detached {
		return c.detachedPid(n) != 0
	}
	nd := c.nodes[n-1]
	nd.mu.Lock()
	defer nd.mu.Unlock()
	return nd.runningLocked()
}

// Pid is the process id of a running node, 0 if it does not run.
func (c *Cluster) Pid(n int) int {
	if c.config.Detached {
		return c.detachedPid(n)
	}
	nd := c.nodes[n-1]
	nd.mu.Lock()
	defer nd.mu.Unlock()
	if !nd.runningLocked() {
		return 0
	}
	return nd.command.Process.Pid
}

// Kill ends an attached node with SIGKILL and waits until it is gone.
func (c *Cluster) Kill(n int) error {
	_, err := c.end(context.Background(), n, os.Kill)
	return err
}

// Stop ends an attached node with SIGTERM and waits until it is gone. That it
// exited with another code than 0 is an error.
func (c *Cluster) Stop(ctx context.Context, n int) error {
	if ran, err := c.end(ctx, n, syscall.SIGTERM); !ran || err != nil {
		return err
	}
	nd := c.nodes[n-1]
	nd.mu.Lock()
	defer nd.mu.Unlock()
	if nd.state != nil && !nd.state.Success() {
		return fmt.Errorf("broker %d ended with %s: %s", n, nd.state, c.lastWords(n))
	}
	return nil
}

// end signals a node and waits until it is gone; ran is false if it was before.
func (c *Cluster) end(ctx context.Context, n int, how os.Signal) (ran bool, err error) {
	nd := c.nodes[n-1]
	nd.mu.Lock()
	if !nd.runningLocked() {
		nd.mu.Unlock()
		return false, nil
	}
	nd.wanted = true
	process, ended := nd.command.Process, nd.ended
	nd.mu.Unlock()
	if err := process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return true, fmt.Errorf("end broker %d: %w", n, err)
	}
	select {
	case <-ended:
		return true, nil
	case <-ctx.Done():
		return true, fmt.Errorf("broker %d did not end: %w", n, ctx.Err())
	}
}

// Close ends all attached nodes, gracefully as long as ctx allows and with
// SIGKILL after that, and waits until they are gone.
func (c *Cluster) Close(ctx context.Context) error {
	faults := make([]error, c.Nodes())
	var ending sync.WaitGroup
	for i := range c.nodes {
		ending.Go(func() {
			if faults[i] = c.Stop(ctx, i+1); faults[i] != nil {
				faults[i] = errors.Join(faults[i], c.Kill(i+1))
			}
		})
	}
	ending.Wait()
	return errors.Join(faults...)
}

// lastWords is the end of a node's log.
func (c *Cluster) lastWords(n int) string {
	text, err := os.ReadFile(c.LogFile(n))
	if err != nil || len(text) == 0 {
		return "(its log is empty)"
	}
	return strings.TrimSpace(string(text[max(0, len(text)-maxShown):]))
}

// cleanEnvironment is this process's without settings meant for other commands.
func cleanEnvironment() []string {
	var kept []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MILLRACE_") {
			kept = append(kept, v)
		}
	}
	return kept
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
