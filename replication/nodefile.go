package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"

	"github.com/millrace/millrace/replication/metadata"
)

// DATA/node.json is one JSON object, replaced as a whole (vfs.WriteFile):
//
//	{
//	  "node": 1,                          node id
//	  "incarnation": "9f3c01d2a4b5c6d7",  of the disk, 16 hexadecimal digits
//	  "cluster": "kOq2Fv9sTbW3...",       empty: in no cluster yet
//	  "member": true,                     DATA/metadata is of this incarnation and cluster
//	  "boot": "f0a1...",                  boot id of the machine at the last start
//	  "clean": false,                     the last stop was graceful
//	  "metadata_index": 12,               M of DESIGN 4.4
//	  "unmade": [7],                      topics at or below M, by index, that could not be made; absent if none
//	  "starts": 3,                        start counter
//	  "peers": [ {"node": 2, "incarnation": "...", "address": "host:port", "starts": 7} ],
//	  "checksum": "1c291ca3"              CRC32C of this object in compact form with "checksum": ""
//	}
//
// peers are the other brokers as this node last knew them. They are a hint where
// to find the group before the metadata is there, and what an old copy of a disk
// is recognised by before any raft instance runs on it.

// nodeFile is the content of node.json.
type nodeFile struct {
	Node          metadata.NodeID
	Incarnation   metadata.Incarnation
	Cluster       string
	Member        bool
	Boot          string
	Clean         bool
	MetadataIndex uint64
	Unmade        []uint64 // ascending
	Starts        uint64
	Peers         []peerEntry
}

// peerEntry is another broker as last known.
type peerEntry struct {
	Node        metadata.NodeID
	Incarnation metadata.Incarnation
	Address     string
	Starts      uint64
}

const (
	// maxNodeFile bounds node.json in bytes.
	maxNodeFile = 1 << 20
	// maxUnmade bounds the topics at or below M that could not be made.
	maxUnmade = 1024
	// maxBootID bounds a boot id in bytes.
	maxBootID = 128
)

// hexNumber is an incarnation as text: JSON readers round large numbers.
type hexNumber uint64

// MarshalText is 16 hexadecimal digits.
func (h hexNumber) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(h)), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *hexNumber) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil || len(text) != 16 {
		return fmt.Errorf("%q is not 16 hexadecimal digits", text)
	}
	*h = hexNumber(v)
	return nil
}

// nodeJSON and peerJSON are the files' fields in their order on disk.
type nodeJSON struct {
	Node          int32      `json:"node"`
	Incarnation   hexNumber  `json:"incarnation"`
	Cluster       string     `json:"cluster"`
	Member        bool       `json:"member"`
	Boot          string     `json:"boot"`
	Clean         bool       `json:"clean"`
	MetadataIndex uint64     `json:"metadata_index"`
	Unmade        []uint64   `json:"unmade,omitempty"` // files without it stay readable
	Starts        uint64     `json:"starts"`
	Peers         []peerJSON `json:"peers"`
	Checksum      string     `json:"checksum"`
}

type peerJSON struct {
	Node        int32     `json:"node"`
	Incarnation hexNumber `json:"incarnation"`
	Address     string    `json:"address"`
	Starts      uint64    `json:"starts"`
}

func (j nodeJSON) sum() (string, error) {
	j.Checksum = ""
	data, err := json.Marshal(j)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(data, castagnoli)), nil
}

// encode is the content of node.json.
func (f nodeFile) encode() (data []byte, err error) {
	j := nodeJSON{Node: int32(f.Node), Incarnation: hexNumber(f.Incarnation), Cluster: f.Cluster, Member: f.Member, Boot: f.Boot,
		Clean: f.Clean, MetadataIndex: f.MetadataIndex, Unmade: f.Unmade, Starts: f.Starts, Peers: []peerJSON{}}
	for _, p := range f.Peers {
		j.Peers = append(j.Peers, peerJSON{int32(p.Node), hexNumber(p.Incarnation), p.Address, p.Starts})
	}
	if j.Checksum, err = j.sum(); err != nil {
		return nil, err
	}
	if data, err = json.MarshalIndent(j, "", "  "); err != nil {
		return nil, err
	}
	if len(data) >= maxNodeFile {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), maxNodeFile)
	}
	return append(data, '\n'), nil
}

// decodeNodeFile reads what encode wrote, and refuses everything else: a flipped
// digit of the incarnation would be another broker.
func decodeNodeFile(data []byte) (nodeFile, error) {
	var j nodeJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nodeFile{}, err
	}
	sum, err := j.sum()
	if err != nil {
		return nodeFile{}, err
	}
	if sum != j.Checksum {
		return nodeFile{}, fmt.Errorf("checksum %q, the content has %s", j.Checksum, sum)
	}
	switch {
	case j.Node < 0 || j.Incarnation == 0:
		return nodeFile{}, errors.New("no node id or incarnation")
	case len(j.Cluster) > metadata.MaxClusterID || len(j.Boot) > maxBootID:
		return nodeFile{}, errors.New("an id is too long")
	case len(j.Unmade) > maxUnmade || !slices.IsSorted(j.Unmade):
		return nodeFile{}, errors.New("too many topics that could not be made, or out of order")
	case j.Member && j.Cluster == "":
		return nodeFile{}, errors.New("a member of no cluster")
	}
	f := nodeFile{Node: metadata.NodeID(j.Node), Incarnation: metadata.Incarnation(j.Incarnation), Cluster: j.Cluster, Member: j.Member,
		Boot: j.Boot, Clean: j.Clean, MetadataIndex: j.MetadataIndex, Unmade: j.Unmade, Starts: j.Starts}
	if len(f.Unmade) == 0 {
		f.Unmade = nil
	}
	for _, p := range j.Peers {
		f.Peers = append(f.Peers, peerEntry{metadata.NodeID(p.Node), metadata.Incarnation(p.Incarnation), p.Address, p.Starts})
	}
	return f, nil
}
