package localcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports of test clusters are in [lowestPort, highestPort): below the ephemeral ports
// of every system (Linux hands out 32768 to 60999, others 49152 and up). A broker
// that is killed comes back on its port; an ephemeral one may belong to somebody's
// connection by then, or to a peer that dialled it and met itself.
const (
	lowestPort  = 20_000
	highestPort = 26_000
	// blockPorts is how many ports are reserved together: the first stands for
	// the reservation, the others are those of five nodes.
	blockPorts = 16
	// maxNodes is how many nodes one block has ports for.
	maxNodes = (blockPorts - 1) / 3
	// portTries bounds the search for a free block.
	portTries = 1000
)

// Ports are the three ports of a node, on 127.0.0.1.
type Ports struct {
	// Kafka is the port of the Kafka protocol.
	Kafka int
	// RPC is the port between brokers.
	RPC int
	// HTTP is the port of readiness and metrics.
	HTTP int
	// reserved keeps others from being given the same ports: a listener that is
	// closed when nobody knows the ports any more, or this process ends.
	reserved net.Listener
}

// StandardPorts are those of a local cluster of three.
func StandardPorts() []Ports {
	return []Ports{
		{Kafka: 9092, RPC: 33145, HTTP: 9644},
		{Kafka: 10092, RPC: 34145, HTTP: 10644},
		{Kafka: 11092, RPC: 35145, HTTP: 11644},
	}
}

// FreePorts finds ports for up to five nodes. No other caller, in whatever process,
// is given the same ones as long as they are in use here.
func FreePorts(n int) ([]Ports, error) {
	if n > maxNodes {
		return nil, fmt.Errorf("find free ports: %d nodes are more than %d", n, maxNodes)
	}
	for range portTries {
		first := lowestPort + blockPorts*rand.IntN((highestPort-lowestPort)/blockPorts)
		lock, err := net.Listen("tcp", loopback(first))
		if err != nil {
			continue
		}
		if !allFree(first+1, 3*n) {
			lock.Close()
			continue
		}
		ports := make([]Ports, n)
		for i := range ports {
			port := first + 1 + 3*i
			ports[i] = Ports{Kafka: port, RPC: port + 1, HTTP: port + 2, reserved: lock}
		}
		return ports, nil
	}
	return nil, errors.New("find free ports: all are in use")
}

// allFree reports whether nobody listens on count ports.
func allFree(first, count int) bool {
	for port := first; port < first+count; port++ {
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
