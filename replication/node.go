package replication

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment/vfs"
)

// The identity of a data folder (DESIGN 2):
//
//	DATA/FORMAT     "millrace 1": a newer one is refused before anything is touched
//	DATA/LOCK       locked while a process uses the folder
//	DATA/node.json  who the folder belongs to, see nodefile.go
//
// What a crash between two steps of OpenNode leaves is the folder as before, or
// one that the next OpenNode completes: FORMAT is written before node.json, and
// node.json before anything that belongs to the node.

// folderFormat is the one line of DATA/FORMAT that this program writes and reads.
const folderFormat = "millrace 1"

// Errors of opening a data folder. Test with errors.Is; the text says what to do.
var (
	// ErrFolderFormat is a folder of another version, or none of ours.
	ErrFolderFormat = errors.New("data folder has another format")
	// ErrFolderInUse is a folder that another process has open.
	ErrFolderInUse = errors.New("data folder is in use")
	// ErrFolderOfOther is a folder of another node id.
	ErrFolderOfOther = errors.New("data folder belongs to another node")
	// ErrNodeFile is a node.json that is lost or damaged beside data that needs it.
	ErrNodeFile = errors.New("node.json cannot be used")
)

// Node is the identity of this process's data folder, and the lock on it. All
// methods may be called concurrently; what they change is durable on return.
type Node struct {
	fs        vfs.FS
	dir       string
	lock      io.Closer
	boot      string
	sameBoot  bool
	cleanStop bool

	writing sync.Mutex // held while node.json is written, and before mu
	closed  bool       // guarded by writing

	mu   sync.Mutex // never held over a call to the disk: the transport asks who we are
	file nodeFile   // as on disk
}

// OpenNode locks a data folder and reads whose it is. An empty or absent folder
// becomes one of node id, with an incarnation drawn now. The start counter is
// raised and the clean-stop mark removed, durably, before it returns.
func OpenNode(fsys vfs.FS, dir string, id metadata.NodeID) (*Node, error) {
	return openNode(fsys, dir, id, bootID(fsys))
}

func openNode(fsys vfs.FS, dir string, id metadata.NodeID, boot string) (n *Node, err error) {
	if id < 0 {
		return nil, fmt.Errorf("open data folder: node id %d is negative", id)
	}
	if _, err := checkFormat(fsys, dir); err != nil { // before anything is touched
		return nil, err
	}
	if err := makeFolder(fsys, dir); err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	lock, err := fsys.Lock(filepath.Join(dir, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("%w: another process has %s open: stop it, or choose another --data-dir", ErrFolderInUse, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	n = &Node{fs: fsys, dir: dir, lock: lock, boot: boot}
	if err := n.load(id); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return n, nil
}

// load reads or makes FORMAT and node.json under the lock.
func (n *Node) load(id metadata.NodeID) error {
	formatted, err := checkFormat(n.fs, n.dir)
	if err != nil {
		return err
	}
	data, err := vfs.ReadFile(n.fs, n.path("node.json"), maxNodeFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := n.refuseOrphans(); err != nil {
			return err
		}
		n.file = nodeFile{Node: id, Incarnation: newIncarnation()}
	case err != nil:
		return fmt.Errorf("read node.json: %w", err)
	default:
		if n.file, err = decodeNodeFile(data); err != nil {
			return fmt.Errorf("%w: %s: %w: restore the file from a backup of this node, or start with an empty data folder", ErrNodeFile, n.path("node.json"), err)
		}
	}
	if n.file.Node != id {
		return fmt.Errorf("%w: %s belongs to node %d, not to node %d: start with --node-id %d, or choose another --data-dir",
			ErrFolderOfOther, n.dir, n.file.Node, id, n.file.Node)
	}
	if !formatted {
		if err := vfs.WriteFile(n.fs, n.path("FORMAT"), []byte(folderFormat+"\n")); err != nil {
			return fmt.Errorf("write FORMAT: %w", err)
		}
	}
	n.cleanStop = n.file.Clean
	n.sameBoot = n.boot != "" && n.boot == n.file.Boot
	return n.change(func(f *nodeFile) {
		f.Clean = false
		f.Starts++
	})
}

// RecordBoot notes that everything in the folder was recovered in this boot of the
// machine. It is called once every replica was opened, not at the start: a process
// killed between the two would make the next one take what a power cut tore for
// what a killed process cannot leave, and call it corrupt.
func (n *Node) RecordBoot() error {
	if n.read().Boot == n.boot {
		return nil
	}
	return n.change(func(f *nodeFile) { f.Boot = n.boot })
}

// refuseOrphans keeps a node from taking data for its own without knowing whose
// they are: it would found a new cluster over them.
func (n *Node) refuseOrphans() error {
	names, err := n.fs.List(n.dir)
	if err != nil {
		return fmt.Errorf("list data folder: %w", err)
	}
	for _, name := range []string{"metadata", "topics", "votes.log"} {
		if slices.Contains(names, name) {
			return fmt.Errorf("%w: %s has %s but no node.json: restore the file from a backup of this node, or start with an empty data folder", ErrNodeFile, n.dir, name)
		}
	}
	return nil
}

// checkFormat reads FORMAT; false if there is none.
func checkFormat(fsys vfs.FS, dir string) (bool, error) {
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, "FORMAT"), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read FORMAT of data folder %s: %w", dir, err)
	}
	format := strings.TrimSuffix(string(data), "\n")
	if format != folderFormat {
		return false, fmt.Errorf("%w: %s says %q, this program knows %q: use the version of millrace that wrote it, or a newer one",
			ErrFolderFormat, filepath.Join(dir, "FORMAT"), format, folderFormat)
	}
	return true, nil
}

// makeFolder makes the folder and the names of its new parents durable.
func makeFolder(fsys vfs.FS, dir string) error {
	var made []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		_, err := fsys.Stat(d)
		if err == nil || d == filepath.Dir(d) {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, d)
	}
	if len(made) == 0 {
		return nil
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for _, d := range made {
		if err := fsys.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// newIncarnation draws an identity for a disk; zero is none.
func newIncarnation() metadata.Incarnation {
	for {
		if i := metadata.Incarnation(rand.Uint64()); i != 0 {
			return i
		}
	}
}

func (n *Node) path(name string) string { return filepath.Join(n.dir, name) }

// change writes a changed node.json; on an error the old one is kept in memory.
func (n *Node) change(edit func(*nodeFile)) error {
	n.writing.Lock()
	defer n.writing.Unlock()
	if n.closed {
		return fmt.Errorf("write node.json: %w", fs.ErrClosed)
	}
	next := n.read()
	next.Peers = slices.Clone(next.Peers)
	edit(&next)
	data, err := next.encode()
	if err != nil {
		return fmt.Errorf("encode node.json: %w", err)
	}
	if err := vfs.WriteFile(n.fs, n.path("node.json"), data); err != nil {
		return fmt.Errorf("write node.json: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.file = next
	return nil
}

func (n *Node) read() nodeFile {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file
}

// ID is the node id.
func (n *Node) ID() metadata.NodeID { return n.read().Node }

// Incarnation identifies the disk. It changes when the metadata group finds that
// the disk was rolled back or has lost its part of the group.
func (n *Node) Incarnation() metadata.Incarnation { return n.read().Incarnation }

// ClusterID is the cluster the folder belongs to, empty while it is in none.
func (n *Node) ClusterID() string { return n.read().Cluster }

// Identity is what the node says of itself in a handshake.
func (n *Node) Identity() transport.Identity {
	f := n.read()
	return transport.Identity{Node: f.Node, Incarnation: f.Incarnation, Cluster: f.Cluster}
}

// SameBoot reports whether the machine has not booted since the folder was last
// used; false if that cannot be known.
func (n *Node) SameBoot() bool { return n.sameBoot }

// CleanStop reports whether the last process that used the folder stopped
// gracefully and had everything on disk.
func (n *Node) CleanStop() bool { return n.cleanStop }

// Starts is the start counter: raised at each process start and each hour, and
// registered with the metadata group.
func (n *Node) Starts() uint64 { return n.read().Starts }

// RaiseStarts raises the start counter.
func (n *Node) RaiseStarts() error { return n.change(func(f *nodeFile) { f.Starts++ }) }

// MetadataIndex is M of DESIGN 4.4: at or below it, every replica that the
// metadata gave this node was made, so one that is missing is lost. Excepted are
// the topics that MayMake still allows.
func (n *Node) MetadataIndex() uint64 { return n.read().MetadataIndex }

// MayMake reports whether replicas of the topic created at a metadata index were
// never made here, so that they may be.
func (n *Node) MayMake(index uint64) bool {
	f := n.read()
	_, unmade := slices.BinarySearch(f.Unmade, index)
	return index > f.MetadataIndex || unmade
}

// RaiseMetadataIndex raises M, and replaces the list of the topics at or below it
// that could not be made, ascending. A lower index leaves M as it is.
func (n *Node) RaiseMetadataIndex(index uint64, unmade []uint64) error {
	f := n.read()
	if index <= f.MetadataIndex && slices.Equal(unmade, f.Unmade) {
		return nil
	}
	if len(unmade) > maxUnmade {
		return fmt.Errorf("%d topics that could not be made, at most %d", len(unmade), maxUnmade)
	}
	return n.change(func(f *nodeFile) {
		f.MetadataIndex, f.Unmade = max(f.MetadataIndex, index), slices.Clone(unmade)
	})
}

// knownPeers are the other brokers as last saved.
func (n *Node) knownPeers() []peerEntry { return n.read().Peers }

// setPeers saves the other brokers if they changed.
func (n *Node) setPeers(peers []peerEntry) error {
	if slices.Equal(peers, n.knownPeers()) {
		return nil
	}
	return n.change(func(f *nodeFile) { f.Peers = peers })
}

// member reports whether DATA/metadata is of this incarnation and cluster.
func (n *Node) member() bool { return n.read().Member }

// becomeMember notes the cluster, where its brokers are, and that DATA/metadata is
// there, which was made durable before.
func (n *Node) becomeMember(cluster string, peers []peerEntry) error {
	return n.change(func(f *nodeFile) { f.Cluster, f.Member, f.Peers = cluster, true, peers })
}

// reincarnate makes the folder another disk: it forgets its part of the metadata
// group, and keeps its cluster, which it must join and never found anew.
func (n *Node) reincarnate() error {
	return n.change(func(f *nodeFile) {
		f.Incarnation, f.Member, f.Starts = newIncarnation(), false, 1
		f.Unmade = nil // what was never made was given to the disk that this one no longer is
	})
}

// MarkClean writes the clean-stop mark, as the last thing of a graceful stop.
func (n *Node) MarkClean() error { return n.change(func(f *nodeFile) { f.Clean = true }) }

// Close releases the lock. It may be called more than once.
func (n *Node) Close() error {
	n.writing.Lock()
	defer n.writing.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	if err := n.lock.Close(); err != nil {
		return fmt.Errorf("unlock data folder: %w", err)
	}
	return nil
}
