package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/segment/vfs"
)

// Config says how a broker runs. Open copies it, fills in the defaults named
// here, reports everything that is wrong at once, and never changes it again.
type Config struct {
	// DataDir is the data folder, made if absent. Default ./millrace-data.
	DataDir string
	// NodeID is the broker's id, at least 0 and unique in the cluster. The zero
	// value is broker 0; the command line's default is 1.
	NodeID int32
	// KafkaAddr is where Kafka clients connect, host:port; port 0 takes a free
	// one. Default 127.0.0.1:9092.
	KafkaAddr string
	// Advertise is what clients are told as this broker's address, host:port.
	// Default: this broker tells each client the address at which its connection
	// arrived; other brokers tell KafkaAddr.
	Advertise string
	// RPCAddr is where other brokers connect, host:port; port 0 only without
	// Join, or to join a cluster that exists. Default 127.0.0.1:33145.
	RPCAddr string
	// RPCAdvertise is what other brokers dial, host:port. Default: RPCAddr.
	RPCAdvertise string
	// HTTPAddr is where health and version are served, host:port; "none" serves
	// no HTTP. Default 127.0.0.1:9644.
	HTTPAddr string
	// Join are the RPC addresses of the cluster's brokers, this one's included;
	// none for a single node.
	Join []string
	// FoundWithout is the RPC address of a founder that will never come.
	FoundWithout string
	// Rack is the failure domain of this broker, empty for none.
	Rack string
	// Settings are broker configurations by their Kafka names.
	Settings map[string]string
	// Version is the program's version, as /version and the metadata show it.
	Version string

	// FS is the file system of the data folder. Default vfs.OS().
	FS vfs.FS
	// Listen opens the broker's listeners. Default net.Listen.
	Listen func(network, address string) (net.Listener, error)
	// Dial connects to other brokers. Default TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// MetaStores opens the storage of the metadata group. Default raft-boltdb in
	// the data folder.
	MetaStores replication.StoreFactory
	// Timings are raft's clocks; zero values are the defaults.
	Timings replication.Timings
	// Logger takes the broker's log. Default: discarded.
	Logger *slog.Logger
	// OnFatal is called once, on a goroutine of its own, when the disk can no
	// longer be trusted; the broker closes itself. A process that serves nothing
	// else should exit with an error at once. Default: nothing.
	OnFatal func(error)
}

// noHTTP as HTTPAddr turns the HTTP listener off.
const noHTTP = "none"

// withDefaults copies the configuration and fills it in.
func (c Config) withDefaults() Config {
	text := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	text(&c.DataDir, "./millrace-data")
	text(&c.KafkaAddr, "127.0.0.1:9092")
	text(&c.RPCAddr, "127.0.0.1:33145")
	text(&c.HTTPAddr, "127.0.0.1:9644")
	text(&c.Version, "unknown")
	c.Join = slices.Clone(c.Join)
	c.Settings = maps.Clone(c.Settings)
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnFatal == nil {
		c.OnFatal = func(error) {}
	}
	return c
}

// validate reports everything that is wrong.
func (c *Config) validate() (*brokerSettings, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.NodeID < 0 {
		fault("node id %d: want 0 or more", c.NodeID)
	}
	address := func(what, text string, portZero bool) {
		if err := checkAddress(text, portZero); err != nil {
			fault("%s %q: %w", what, text, err)
		}
	}
	address("Kafka address", c.KafkaAddr, true)
	address("RPC address", c.RPCAddr, true)
	if c.HTTPAddr != noHTTP {
		address("HTTP address", c.HTTPAddr, true)
	}
	if c.Advertise != "" {
		address("advertised address", c.Advertise, false)
	}
	if c.RPCAdvertise != "" {
		address("advertised RPC address", c.RPCAdvertise, false)
	}
	for i, join := range c.Join {
		address("address to join", join, false)
		if slices.Contains(c.Join[:i], join) {
			fault("address to join %q is given twice", join)
		}
	}
	if c.FoundWithout != "" && !slices.Contains(c.Join, c.FoundWithout) {
		fault("the founder to do without, %q, is not among the addresses to join", c.FoundWithout)
	}
	settings, err := newBrokerSettings(c.Settings)
	if err != nil {
		faults = append(faults, err)
	}
	return settings, errors.Join(faults...)
}

// checkAddress checks the form host:port.
func checkAddress(text string, portZero bool) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return errors.New("want host:port")
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return fmt.Errorf("%q is no port", port)
	}
	if n == 0 && !portZero {
		return errors.New("port 0 cannot be dialled")
	}
	return nil
}
