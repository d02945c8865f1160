package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// world is the network of one scenario: a bridge, and for each broker a namespace
// with one address on it. This process has the last address of the network.
//
//	host ── bridge mr<pid> ──┬── mr<pid>-1 (10.213.x.1)
//	                         ├── mr<pid>-2 (10.213.x.2)
//
// What a broker does not receive is dropped in its own namespace, by a table of
// nftables that is replaced as a whole at each change. Clients are never cut there.
type world struct {
	bridge string
	net    string // the first three numbers of the addresses

	mu      sync.Mutex
	brokers int
	losses  map[link]int // percent of the frames
}

// link is one direction between two brokers.
type link struct{ from, to int }

// tools are what the scenarios need, and where it comes from.
var tools = []struct{ name, from string }{
	{"ip", "iproute2"}, {"nft", "nftables"}, {"mkfs.ext4", "e2fsprogs"}, {"mount", "mount"},
}

// checkTools says what is missing before anything is set up.
func checkTools() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and mounts need root: run it as root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("the command %s is missing: install the package %s", tool.name, tool.from)
		}
	}
	return nil
}

// newWorld makes the bridge and the namespaces. What a killed run left is removed.
func newWorld(brokers int) (*world, error) {
	if err := errors.Join(removeLeftovers(), removeLeftoverVolumes()); err != nil {
		return nil, err
	}
	pid := os.Getpid()
	w := &world{bridge: fmt.Sprintf("mr%d", pid), net: fmt.Sprintf("10.213.%d", pid%250), brokers: brokers, losses: map[link]int{}}
	steps := [][]string{
		{"ip", "link", "add", w.bridge, "type", "bridge"},
		{"ip", "addr", "add", w.hostAddress() + "/24", "dev", w.bridge},
		{"ip", "link", "set", w.bridge, "up"},
	}
	for n := 1; n <= brokers; n++ {
		ns := w.namespace(n)
		steps = append(steps,
			[]string{"ip", "netns", "add", ns},
			[]string{"ip", "link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"ip", "-n", ns, "addr", "add", w.address(n) + "/24", "dev", "eth0"},
			[]string{"ip", "-n", ns, "link", "set", "lo", "up"},
			[]string{"ip", "-n", ns, "link", "set", "eth0", "up"},
			[]string{"ip", "link", "set", ns, "master", w.bridge, "up"},
		)
	}
	for _, step := range steps {
		if err := command("", step...); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

// namespace is the name of a broker's namespace, and of its end of the cable here.
func (w *world) namespace(n int) string { return fmt.Sprintf("%s-%d", w.bridge, n) }

func (w *world) address(n int) string { return fmt.Sprintf("%s.%d", w.net, n) }

func (w *world) hostAddress() string { return w.net + ".254" }

// wrap makes a command run in a broker's namespace; ip replaces itself by it.
func (w *world) wrap(n int, line []string) []string {
	return append([]string{"ip", "netns", "exec", w.namespace(n)}, line...)
}

// lose drops that many percent of the frames from one broker to another; 100 cuts
// this direction, 0 heals it.
func (w *world) lose(percent int, links ...link) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var receivers []int
	for _, l := range links {
		if percent == 0 {
			delete(w.losses, l)
		} else {
			w.losses[l] = percent
		}
		if !slices.Contains(receivers, l.to) {
			receivers = append(receivers, l.to)
		}
	}
	for _, n := range receivers {
		if err := command(w.rulesLocked(n), "ip", "netns", "exec", w.namespace(n), "nft", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

// rulesLocked is what a broker's namespace drops.
func (w *world) rulesLocked(n int) string {
	var b strings.Builder
	b.WriteString("table inet chaos {}\ndelete table inet chaos\n")
	b.WriteString("table inet chaos {\n chain input {\n  type filter hook input priority 0;\n")
	for l, percent := range w.losses {
		switch {
		case l.to != n:
		case percent >= 100:
			fmt.Fprintf(&b, "  ip saddr %s drop\n", w.address(l.from))
		default:
			fmt.Fprintf(&b, "  ip saddr %s numgen random mod 100 < %d drop\n", w.address(l.from), percent)
		}
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

// healAll ends all losses, and plugs every cable in.
func (w *world) healAll() error {
	w.mu.Lock()
	links := make([]link, 0, len(w.losses))
	for l := range w.losses {
		links = append(links, l)
	}
	w.mu.Unlock()
	var faults []error
	if len(links) > 0 {
		faults = append(faults, w.lose(0, links...))
	}
	for n := 1; n <= w.brokers; n++ {
		faults = append(faults, w.plug(n, true))
	}
	return errors.Join(faults...)
}

// plug puts a broker's cable in, or pulls it: nobody reaches it then, clients neither.
func (w *world) plug(n int, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return command("", "ip", "link", "set", w.namespace(n), state)
}

// close removes everything. Nothing may run in the namespaces any more.
func (w *world) close() error { return removeWorld(w.bridge, w.brokers) }

func removeWorld(bridge string, brokers int) error {
	names, err := namespaces()
	if err != nil {
		return err
	}
	var faults []error
	for n := 1; n <= brokers; n++ {
		if ns := fmt.Sprintf("%s-%d", bridge, n); slices.Contains(names, ns) {
			// The cable first: a namespace goes later than its name, and the cable with it.
			if _, err := os.Stat("/sys/class/net/" + ns); err == nil {
				faults = append(faults, command("", "ip", "link", "del", ns))
			}
			faults = append(faults, command("", "ip", "netns", "del", ns))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		faults = append(faults, command("", "ip", "link", "del", bridge))
	}
	return errors.Join(faults...)
}

// removeLeftovers removes the worlds of processes that are gone.
func removeLeftovers() error {
	names, err := namespaces()
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		bridge, _, ok := strings.Cut(name, "-")
		pid, err := strconv.Atoi(strings.TrimPrefix(bridge, "mr"))
		if !ok || !strings.HasPrefix(bridge, "mr") || err != nil {
			continue
		}
		if !alive(pid) {
			faults = append(faults, removeWorld(bridge, maxBrokers))
		}
	}
	return errors.Join(faults...)
}

// namespaces are the names of all network namespaces.
func namespaces() ([]string, error) {
	entries, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// command runs a command to its end; its error has what it printed.
func command(input string, line ...string) error {
	c := exec.Command(line[0], line[1:]...)
	c.Stdin = strings.NewReader(input)
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
