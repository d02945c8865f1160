package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/millrace/millrace/replication/metadata"
)

// The handshake is three messages of one form: the side that dialled says hello,
// the other one answers with its own identity and whether it accepts, and the
// first one gives its verdict in turn. So both sides know why a connection is
// refused. The side that dialled may send requests right behind its verdict.
//
//	 0         8         10       12     13      14        15
//	+---------+---------+--------+------+-------+---------+-------------+
//	| magic   | version | length | kind | class | refusal | cluster len |
//	+---------+---------+--------+------+-------+---------+-------------+
//	 16     20         21         24            32         40
//	+------+----------+----------+-------------+----------+---------+------+-----+
//	| node | text len | reserved | incarnation | instance | cluster | text | CRC |
//	+------+----------+----------+-------------+----------+---------+------+-----+
//
//	magic        8    "MILLRACE"
//	version      u16  protocol version, 1
//	length       u16  bytes of the whole message, checksum included; at most 512
//	kind         u8   1 hello, 2 answer, 3 verdict
//	class        u8   what the connection is for; the answer repeats it
//	refusal      u8   0 accepted (or a hello), else the reason
//	cluster len  u8   at most 64
//	node         i32  node id
//	text len     u8   at most 255
//	reserved     3    zero
//	incarnation  u64  of the node
//	instance     u64  random number of this mux: tells a node that meets itself
//	                  from a second process on a copy of its data folder
//	cluster           cluster id, empty while none is known
//	text              the refusal in words
//	CRC          u32  CRC32C of all bytes before it
//
// Magic, version, length and the checksum at the end keep their places in every
// version, so that a newer peer can be told from garbage and be refused.
const (
	helloMagic   = "MILLRACE"
	helloVersion = 1
	helloPrefix  = 12  // magic, version, length
	helloFixed   = 40  // up to the cluster id
	helloMax     = 512 // no message is longer: one array on the stack of the reader

	maxClusterID   = 64
	maxRefusalText = 255
)

// Kinds of a handshake message.
const (
	kindHello   = 1
	kindAnswer  = 2
	kindVerdict = 3
)

// handshakeTimeout bounds a whole handshake on both sides; what has not told us
// who it is by then is closed.
const handshakeTimeout = 5 * time.Second

// Refusal is why a handshake was refused. Numbers are part of the protocol.
type Refusal uint8

// The reasons.
const (
	// RefusedCluster is a node of another cluster.
	RefusedCluster Refusal = 1
	// RefusedDuplicate is a second node with our own id: another incarnation of
	// it, or another process on a copy of our data folder.
	RefusedDuplicate Refusal = 2
	// RefusedRetired is an incarnation that the metadata has replaced by a later one.
	RefusedRetired Refusal = 3
	// RefusedVersion is a protocol version that this node does not know.
	RefusedVersion Refusal = 4
	// RefusedNode is a node with another id than the dialling side looked for.
	RefusedNode Refusal = 5
)

// String names the reason in logs.
func (r Refusal) String() string {
	switch r {
	case RefusedCluster:
		return "other cluster"
	case RefusedDuplicate:
		return "duplicate node id"
	case RefusedRetired:
		return "retired incarnation"
	case RefusedVersion:
		return "newer protocol"
	case RefusedNode:
		return "wrong node"
	}
	return fmt.Sprintf("refusal(%d)", uint8(r))
}

// hello is one message of the handshake, decoded.
type hello struct {
	version  uint16
	kind     uint8
	class    Class
	refusal  Refusal
	peer     Peer
	instance uint64
	text     string
}

// append appends the message to dst; cluster and text are cut at their limits.
func (h hello) append(dst []byte) []byte {
	start := len(dst)
	cluster, text := h.peer.Cluster, h.text
	cluster = cluster[:min(len(cluster), maxClusterID)]
	text = text[:min(len(text), maxRefusalText)]
	dst = append(dst, helloMagic...)
	dst = binary.BigEndian.AppendUint16(dst, h.version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(helloFixed+len(cluster)+len(text)+4))
	dst = append(dst, h.kind, byte(h.class), byte(h.refusal), byte(len(cluster)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.peer.Node))
	dst = append(dst, byte(len(text)), 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.peer.Incarnation))
	dst = binary.BigEndian.AppendUint64(dst, h.instance)
	dst = append(dst, cluster...)
	dst = append(dst, text...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// decodeHelloPrefix checks the part that is the same in all versions and returns
// the version and the length of the whole message.
func decodeHelloPrefix(b []byte) (version uint16, length int, err error) {
	if len(b) < helloPrefix || string(b[:8]) != helloMagic {
		return 0, 0, badFrame("the first bytes are not those of a Millrace broker")
	}
	version = binary.BigEndian.Uint16(b[8:])
	length = int(binary.BigEndian.Uint16(b[10:]))
	if version == 0 || length < helloPrefix+4 || length > helloMax {
		return 0, 0, badFrame("handshake of version %d and length %d", version, length)
	}
	return version, length, nil
}

// decodeHello reads a whole message. One of a newer version comes back with its
// version alone and no error: it is refused, not garbage.
func decodeHello(b []byte) (hello, error) {
	version, length, err := decodeHelloPrefix(b)
	if err != nil {
		return hello{}, err
	}
	if len(b) != length {
		return hello{}, badFrame("handshake of %d bytes says it has %d", len(b), length)
	}
	end := length - 4
	if got, want := crc32.Checksum(b[:end], castagnoli), binary.BigEndian.Uint32(b[end:]); got != want {
		return hello{}, badFrame("handshake checksum %08x, computed %08x", want, got)
	}
	if version > helloVersion {
		return hello{version: version}, nil
	}
	if length < helloFixed+4 {
		return hello{}, badFrame("handshake of length %d", length)
	}
	clusterLen, textLen := int(b[15]), int(b[20])
	if clusterLen > maxClusterID || helloFixed+clusterLen+textLen+4 != length || !bytes.Equal(b[21:24], []byte{0, 0, 0}) {
		return hello{}, badFrame("handshake of length %d with a cluster id of %d and a text of %d bytes", length, clusterLen, textLen)
	}
	h := hello{
		version:  version,
		kind:     b[12],
		class:    Class(b[13]),
		refusal:  Refusal(b[14]),
		instance: binary.BigEndian.Uint64(b[32:]),
		peer: Peer{
			Node:        metadata.NodeID(int32(binary.BigEndian.Uint32(b[16:]))),
			Incarnation: metadata.Incarnation(binary.BigEndian.Uint64(b[24:])),
			Cluster:     string(b[helloFixed : helloFixed+clusterLen]),
		},
		text: string(b[helloFixed+clusterLen : end]),
	}
	return h, h.check()
}

// check refuses values that no node sends.
func (h hello) check() error {
	switch {
	case h.kind < kindHello || h.kind > kindVerdict:
		return badFrame("handshake of kind %d", h.kind)
	case h.class > probe:
		return badFrame("handshake for class %d", h.class)
	case h.peer.Node < 0 || h.peer.Incarnation == 0:
		return badFrame("handshake of node %d, incarnation %v", h.peer.Node, h.peer.Incarnation)
	case h.kind == kindHello && h.refusal != 0:
		return badFrame("hello with refusal %d", h.refusal)
	}
	return nil
}

// readHello reads one message of the given kind without reading beyond it. The
// array is all that is allocated for a peer we do not know yet.
func readHello(r io.Reader, kind uint8) (hello, error) {
	var array [helloMax]byte
	if _, err := io.ReadFull(r, array[:helloPrefix]); err != nil {
		return hello{}, err
	}
	_, length, err := decodeHelloPrefix(array[:])
	if err != nil {
		return hello{}, err
	}
	if _, err := io.ReadFull(r, array[helloPrefix:length]); err != nil {
		return hello{}, err
	}
	h, err := decodeHello(array[:length])
	if err == nil && h.version == helloVersion && h.kind != kind {
		return hello{}, badFrame("handshake message of kind %d, expected %d", h.kind, kind)
	}
	return h, err
}

// judge decides whether own accepts the peer that sent h. retired tells
// incarnations that were replaced.
func judge(own Identity, instance uint64, h hello, retired func(Peer) bool) (Refusal, string) {
	peer := h.peer
	switch {
	case h.version > helloVersion:
		return RefusedVersion, fmt.Sprintf("the peer speaks protocol version %d, node %d knows up to %d: upgrade it first", h.version, own.Node, helloVersion)
	case own.Cluster != "" && peer.Cluster != "" && own.Cluster != peer.Cluster:
		return RefusedCluster, fmt.Sprintf("node %d belongs to cluster %s, the peer (node %d) to cluster %s", own.Node, own.Cluster, peer.Node, peer.Cluster)
	case own.Node == peer.Node && own.Incarnation != peer.Incarnation:
		return RefusedDuplicate, fmt.Sprintf("two nodes have the id %d (incarnations %v and %v): give one of them another --node-id", own.Node, own.Incarnation, peer.Incarnation)
	case own.Node == peer.Node && instance != h.instance:
		return RefusedDuplicate, fmt.Sprintf("two processes run as node %d, incarnation %v: one of them uses a copy of the data folder", own.Node, own.Incarnation)
	case retired(peer):
		return RefusedRetired, fmt.Sprintf("incarnation %v of node %d was replaced by a later one: its disk is out of date", peer.Incarnation, peer.Node)
	}
	return 0, ""
}

// greet makes the handshake on a connection that we dialled. want is the node
// expected there, or anyNode. The peer's identity is returned as soon as it is
// known, also with an error.
func (m *Mux) greet(nc net.Conn, class Class, own Identity, want metadata.NodeID) (Peer, error) {
	msg := hello{version: helloVersion, kind: kindHello, class: class, peer: own, instance: m.instance}
	if _, err := nc.Write(msg.append(nil)); err != nil {
		return Peer{}, fmt.Errorf("send hello: %w", err)
	}
	answer, err := readHello(nc, kindAnswer)
	if err != nil {
		return Peer{}, fmt.Errorf("read the answer to hello: %w", err)
	}
	if answer.refusal != 0 {
		return answer.peer, &RefusedError{Reason: answer.refusal, Text: answer.text, Peer: answer.peer, Own: own, ByPeer: true}
	}
	refusal, text := judge(own, m.instance, answer, m.isRetired)
	if refusal == 0 && want != anyNode && answer.peer.Node != want {
		refusal, text = RefusedNode, fmt.Sprintf("node %d was expected at this address, node %d answered", want, answer.peer.Node)
	}
	msg.kind, msg.refusal, msg.text = kindVerdict, refusal, text
	if _, err := nc.Write(msg.append(nil)); err != nil {
		return answer.peer, fmt.Errorf("send verdict: %w", err)
	}
	if refusal != 0 {
		return answer.peer, &RefusedError{Reason: refusal, Text: text, Peer: answer.peer, Own: own}
	}
	return answer.peer, nil
}

// welcome makes the handshake on a connection that was accepted.
func (m *Mux) welcome(nc net.Conn, own Identity) (Peer, Class, error) {
	h, err := readHello(nc, kindHello)
	if err != nil {
		return Peer{}, 0, fmt.Errorf("read hello: %w", err)
	}
	refusal, text := judge(own, m.instance, h, m.isRetired)
	answer := hello{version: helloVersion, kind: kindAnswer, class: h.class, refusal: refusal, peer: own, instance: m.instance, text: text}
	if _, err := nc.Write(answer.append(nil)); err != nil {
		return h.peer, h.class, fmt.Errorf("answer hello: %w", err)
	}
	if refusal != 0 {
		return h.peer, h.class, &RefusedError{Reason: refusal, Text: text, Peer: h.peer, Own: own}
	}
	verdict, err := readHello(nc, kindVerdict)
	switch {
	case err != nil:
		return h.peer, h.class, fmt.Errorf("read verdict: %w", err)
	case verdict.refusal != 0:
		return h.peer, h.class, &RefusedError{Reason: verdict.refusal, Text: verdict.text, Peer: h.peer, Own: own, ByPeer: true}
	case verdict.peer != h.peer || verdict.class != h.class:
		return h.peer, h.class, badFrame("verdict of another identity than the hello")
	}
	return h.peer, h.class, nil
}
