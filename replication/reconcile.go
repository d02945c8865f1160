package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/planted"
)

// Errors that keep a replica out of its group. Nothing is deleted for them.
var (
	// ErrLostReplica: the metadata says that this node has the replica, and the
	// folder or the vote record is not there, or belongs to another incarnation.
	// Such a replica forgot what it acknowledged or voted for, and must not speak
	// for its old self (DESIGN 4.4).
	ErrLostReplica = errors.New("the replica's folder or vote record is lost")
	// ErrVotesInDoubt: the end of the file of votes was cut at a place where a vote
	// may have been that somebody was promised (see Votes). The replica might vote
	// twice in a term, so it stays out for good; it counts as lost.
	ErrVotesInDoubt = errors.New("the replica's last vote may be lost")
	// ErrReplacedDisk: the metadata group found this disk to be an old copy.
	ErrReplacedDisk = errors.New("the data folder is no longer the broker it was")
)

// assignment is one replica that the metadata gives this node.
type assignment struct {
	topic     *metadata.Topic
	partition int32
	replica   metadata.Replica
}

// since is the metadata index of the record that gave the replica to its node.
func (a assignment) since() uint64 { return a.topic.Since(a.replica) }

func (a assignment) group() transport.GroupID {
	return transport.GroupID{Topic: a.topic.ID, Partition: a.partition}
}

// dir is the replica's folder: topics/TOPIC/PARTITION-TOPICID.
func (h *Host) dir(a assignment) string {
	return filepath.Join(h.topicsDir(), a.topic.Name, fmt.Sprintf("%d-%s", a.partition, a.topic.ID))
}

func (h *Host) topicsDir() string { return filepath.Join(h.config.DataDir, "topics") }

// reconcileLoop drives what this node has toward what the metadata says.
func (h *Host) reconcileLoop() {
	defer h.workers.Done()
	changed := make(chan struct{}, 1)
	defer h.meta.Watch(changed)()
	retry := time.NewTimer(0)
	defer retry.Stop()
	pause := reconcileRetry
	for {
		select {
		case <-h.stop:
			return
		case <-changed:
		case <-h.poke:
		case <-retry.C:
		}
		err := h.reconcile(h.meta.View())
		if err == nil {
			pause = reconcileRetry
			continue
		}
		h.logger.Error("replicas do not match the metadata yet", "retry_in", pause, "err", err)
		retry.Reset(pause)
		pause = min(2*pause, reconcileRetryMost)
	}
}

const (
	// reconcileRetry is how long to wait after a replica could not be made, opened
	// or removed (no space, for example); twice as long each time that follows, up
	// to reconcileRetryMost.
	reconcileRetry     = time.Second
	reconcileRetryMost = 10 * time.Second
)

// mayPass reports a failure that says nothing about the replica and may be over by
// the next try: the disk is full, or the process or the machine has as many files
// open as it may. A replica is not out of its group for it.
func mayPass(err error) bool {
	return errors.Is(err, log.ErrNoSpace) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// maxTold bounds how many failures of one kind an error names.
const maxTold = 5

// several joins the failures of many replicas: a few of them and how many they are.
func several(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if more := len(errs) - maxTold; more > 0 {
		errs = append(errs[:maxTold:maxTold], fmt.Errorf("and %d more replicas", more))
	}
	return errors.Join(errs...)
}

// reconcile makes, opens and removes replicas. It is called by one goroutine.
func (h *Host) reconcile(view *metadata.View) error {
	if registered, err := h.registered(view); err != nil || !registered {
		return err
	}
	var left error
	if h.caughtUp.Load() { // first: a new replica may come in the place of one that left
		left = h.removeLeft(view)
	}
	h.assign(view)
	created, opened := h.missing(view)
	// What cannot be made or removed must not hold up what is there, nor each other:
	// on a full disk deletions make room. It is tried again.
	made, retry := h.create(created)
	unopened := h.open(append(opened, made...))
	retry = errors.Join(left, retry, unopened)
	if !h.caughtUp.Load() {
		return retry
	}
	retry = errors.Join(retry, h.removeDeleted(view))
	if unopened != nil { // what was not opened was not recovered
		return retry
	}
	select {
	case <-h.settled:
		return retry
	default:
	}
	if err := h.setUnknownAside(view); err != nil {
		return errors.Join(retry, fmt.Errorf("set unknown folders aside: %w", err))
	}
	if len(h.failedReplicas()) == 0 { // what was not opened was not recovered
		if err := h.node.RecordBoot(); err != nil {
			return errors.Join(retry, err)
		}
	}
	close(h.settled)
	return retry
}

// registered reports whether this start of this disk is known to the metadata
// group. Before that no replica may speak: the disk may be an old copy that has
// forgotten votes and acknowledgements, which only the registered start counter
// tells (DESIGN 5). A disk that turns out to be another one while its replicas
// run ends the process, because they spoke for the old one.
func (h *Host) registered(view *metadata.View) (bool, error) {
	own := h.node.Incarnation()
	if h.speaking != 0 && h.speaking != own {
		h.fatal(fmt.Errorf("%w: it was incarnation %s and is now %s: start the broker again", ErrReplacedDisk, h.speaking, own))
		return false, ErrReplacedDisk
	}
	if h.speaking == own {
		return true, nil
	}
	broker, ok := view.Broker(h.node.ID())
	if !ok || broker.Incarnation != own || broker.Start < h.node.Starts() {
		return false, nil
	}
	h.speaking = own
	return true, nil
}

// missing lists the assignments that have no partition yet: those that were never
// made are new; of the others the replica must exist.
func (h *Host) missing(view *metadata.View) (created, opened []assignment) {
	topics := slices.SortedFunc(view.Topics(), func(a, b *metadata.Topic) int { return cmp.Compare(a.Index, b.Index) })
	for _, topic := range topics {
		for i, p := range topic.Partitions {
			replica, ok := p.On(h.node.ID())
			a := assignment{topic, int32(i), replica}
			switch {
			case !ok || h.has(a.group()):
			case h.node.MayMake(a.since()) && replica.NodeIncarnation == h.node.Incarnation():
				created = append(created, a)
			default:
				opened = append(opened, a)
			}
		}
	}
	return created, opened
}

// create makes new replicas and returns those that may be opened. The order
// matters: folder and vote record are durable before the node's metadata index
// passes the topic's record, and that index is durable before the replica votes or
// acknowledges for the first time. So a crash in between leaves a half-made replica
// above the index, which is made anew, and below the index a missing one is known
// to be lost. A topic that cannot be made is left out of that by name, in the same
// write: it must not keep later ones from speaking, nor be taken for lost.
func (h *Host) create(created []assignment) (made []assignment, err error) {
	if len(created) == 0 {
		return nil, nil
	}
	errs := parallel(created, func(a assignment) error { return h.createReplica(a) })
	for i, a := range created {
		if errs[i] != nil {
			errs[i] = fmt.Errorf("create replica %s/%d: %w", a.topic.Name, a.partition, errs[i])
		}
		h.setUnmade(a.group(), errs[i])
	}
	made, index, unmade := sortMade(h.node.MetadataIndex(), created, errs)
	err = several(errs)
	if len(made) == 0 {
		return nil, err
	}
	if raised := h.node.RaiseMetadataIndex(index, unmade); raised != nil {
		raised = fmt.Errorf("record that replicas exist: %w", raised)
		if !mayPass(raised) {
			// A second try may succeed and prove nothing, and with a lower index on
			// the disk the next start would make these replicas anew. (Where a file
			// or folder could not even be opened no sync has failed.)
			h.fatal(raised)
		}
		return nil, errors.Join(err, raised)
	}
	return made, err
}

// sortMade tells which replicas may be opened after their making ended with these
// errors, what that makes of M, which was known, and which topics at or below it
// are not made. A topic counts as made with all of its replicas here, since its
// index stands for all of them. If more topics failed than can be named, those
// behind are held back.
func sortMade(known uint64, created []assignment, errs []error) (made []assignment, index uint64, unmade []uint64) {
	var failed []uint64
	for i, a := range created {
		if errs[i] != nil {
			failed = append(failed, a.since())
		}
	}
	slices.Sort(failed)
	failed = slices.Compact(failed)
	limit := uint64(math.MaxUint64)
	if len(failed) > maxUnmade {
		limit = failed[maxUnmade]
	}
	index = known
	for _, a := range created {
		if _, hasFailed := slices.BinarySearch(failed, a.since()); !hasFailed && a.since() < limit {
			made = append(made, a)
			index = max(index, a.since())
		}
	}
	for _, f := range failed {
		if f <= index {
			unmade = append(unmade, f)
		}
	}
	return made, index, unmade
}

func (h *Host) createReplica(a assignment) error {
	dir := h.dir(a)
	if err := h.config.FS.RemoveAll(dir); err != nil {
		return err
	}
	if err := h.makeTopicDir(a); err != nil {
		return err
	}
	l, err := log.Create(h.logOptions(a))
	if err != nil {
		return err
	}
	if err := h.votes.Register(a.group(), a.replica.Incarnation); err != nil {
		return errors.Join(err, l.Close())
	}
	if a.replica.Index > 0 { // it comes to a group that is there, and learns everything from that
		return l.Close()
	}
	return errors.Join(bootstrap(l, h.votes.Group(a.group()), a), l.Close())
}

// makeTopicDir makes topics/TOPIC durable.
func (h *Host) makeTopicDir(a assignment) error {
	dir := filepath.Dir(h.dir(a))
	if err := h.config.FS.MkdirAll(dir); err != nil {
		return err
	}
	if err := h.config.FS.SyncDir(h.topicsDir()); err != nil {
		return err
	}
	return h.config.FS.SyncDir(h.config.DataDir)
}

// bootstrap writes the group's first entry, the same on every replica, so that
// each of them can win the first election. The term is above the last one
// announced for an older topic of the same name, so that clients that know no
// topic ids do not take the new leader for a stale one.
func bootstrap(l *log.Log, stable raft.StableStore, a assignment) error {
	var members raft.Configuration
	for _, r := range a.topic.Partitions[a.partition].Replicas {
		id := transport.ServerID(r.Node, r.Incarnation)
		members.Servers = append(members.Servers, raft.Server{
			Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
	}
	if err := stable.SetUint64([]byte("CurrentTerm"), max(1, a.topic.StartTerm)); err != nil {
		return err
	}
	store := &logStore{log: l, proposals: newProposalTable(), failed: func(error) {}, appended: func(*Proposal) {}}
	return store.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(members)})
}

func (h *Host) logOptions(a assignment) log.Options {
	policy := h.policy(a.topic)
	return log.Options{
		FS:  h.config.FS,
		Dir: h.dir(a),
		Identity: log.Identity{Cluster: h.node.ClusterID(), Topic: a.topic.Name, TopicID: a.topic.ID,
			Partition: a.partition, Incarnation: a.replica.Incarnation},
		SegmentBytes: policy.SegmentBytes,
		SegmentAge:   policy.SegmentAge,
		SameBoot:     h.node.SameBoot(),
		CleanStop:    h.node.CleanStop(),
		Cache:        h.cache,
		Files:        h.files,
		Logger:       h.logger,
	}
}

// segmentBytes is the topic's segment.bytes, Kafka's default if unset.
func segmentBytes(topic *metadata.Topic) int64 {
	n, err := strconv.ParseInt(topic.Configs["segment.bytes"], 10, 64)
	if err != nil || n <= 0 {
		return 1 << 30
	}
	return n
}

// open starts the replicas that should exist; one that cannot start stays out of
// its group, and says so, while all others go on. One that only lacks space or
// descriptors is tried again.
func (h *Host) open(opened []assignment) error {
	return several(parallel(opened, func(a assignment) error {
		p, err := h.openReplica(a)
		if mayPass(err) {
			return fmt.Errorf("open replica %s/%d: %w", a.topic.Name, a.partition, err)
		}
		if err != nil {
			h.logger.Error("replica is out of its group", "topic", a.topic.Name,
				"partition", a.partition, "dir", h.dir(a), "err", err)
			h.setFailed(a.group(), err)
			return nil
		}
		h.setPartition(p)
		return nil
	}))
}

func (h *Host) openReplica(a assignment) (*Partition, error) {
	if planted.NoIncarnation {
		if err := h.makeLostAnew(a); err != nil {
			return nil, err
		}
	}
	if a.replica.NodeIncarnation != h.node.Incarnation() {
		return nil, fmt.Errorf("%w: the metadata names another incarnation of this node, whose disk was replaced", ErrLostReplica)
	}
	if h.votes.InDoubt(a.group()) {
		return nil, fmt.Errorf("%w: %w: the end of votes.log was damaged and cut; what was cut is kept as votes.log%s",
			ErrLostReplica, ErrVotesInDoubt, votesTornSuffix)
	}
	incarnation, voted := h.votes.Incarnation(a.group())
	if !voted || incarnation != a.replica.Incarnation {
		return nil, fmt.Errorf("%w: votes.log has no record of incarnation %016x", ErrLostReplica, a.replica.Incarnation)
	}
	identity, err := log.ReadIdentity(h.config.FS, h.dir(a))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no folder", ErrLostReplica)
	}
	if err != nil {
		return nil, err
	}
	if identity.Incarnation != a.replica.Incarnation || identity.Cluster != h.node.ClusterID() {
		return nil, fmt.Errorf("%w: the folder belongs to cluster %s, incarnation %016x", ErrLostReplica, identity.Cluster, identity.Incarnation)
	}
	l, err := log.Open(h.logOptions(a))
	if err != nil {
		return nil, err
	}
	return startPartition(h.partitionConfig(a, l))
}

// removeDeleted removes the replicas of deleted topics and tells the metadata.
func (h *Host) removeDeleted(view *metadata.View) (failed error) {
	for record := range view.Deletions() {
		if !slices.Contains(record.Waiting, h.node.ID()) {
			continue
		}
		for _, p := range h.partitionsOf(record.ID) {
			h.dropPartition(p.group)
			if err := p.Close(); err != nil {
				h.logger.Warn("closing a deleted replica", "topic", record.Name, "err", err)
			}
		}
		if err := h.removeFolders(record.Name, record.ID); err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove deleted topic %s: %w", record.Name, err))
			continue
		}
		ctx, cancel := context.WithTimeout(h.context, 5*time.Second)
		_, _, err := h.meta.Change(ctx, &metadata.ConfirmDelete{Node: h.node.ID(), IDs: []segment.TopicID{record.ID}})
		cancel()
		if err != nil {
			return errors.Join(failed, fmt.Errorf("confirm the deletion of topic %s: %w", record.Name, err))
		}
	}
	return failed
}

// removeFolders deletes every local folder of the topic id, and before each its
// vote record: after a crash the folder is what is looked for.
func (h *Host) removeFolders(name string, id segment.TopicID) error {
	dir := filepath.Join(h.topicsDir(), name)
	names, err := h.config.FS.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, folder := range names {
		partition, owner, ok := parseFolder(folder)
		if !ok || owner != id {
			continue
		}
		group := transport.GroupID{Topic: id, Partition: partition}
		if err := h.votes.Forget(group); err != nil {
			return err
		}
		if err := h.config.FS.RemoveAll(filepath.Join(dir, folder)); err != nil {
			return err
		}
		h.forget(group)
	}
	if err := h.config.FS.SyncDir(dir); err != nil {
		return err
	}
	if names, err = h.config.FS.List(dir); err == nil && len(names) == 0 {
		return h.config.FS.Remove(dir)
	}
	return nil
}

// parseFolder reads PARTITION-TOPICID.
func parseFolder(name string) (int32, segment.TopicID, bool) {
	for i := range len(name) {
		if name[i] != '-' {
			continue
		}
		partition, err := strconv.ParseInt(name[:i], 10, 32)
		id, idErr := segment.ParseTopicID(name[i+1:])
		return int32(partition), id, err == nil && idErr == nil && partition >= 0
	}
	return 0, segment.TopicID{}, false
}

// setUnknownAside moves folders that the metadata does not know, and has no
// delete record for, into the quarantine: a folder nobody knows is not garbage.
// It runs once, after this start has caught up with the metadata leader.
func (h *Host) setUnknownAside(view *metadata.View) error {
	topics, err := h.config.FS.List(h.topicsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range topics {
		folders, err := h.config.FS.List(filepath.Join(h.topicsDir(), name))
		if err != nil {
			// A file, or the folder of another user: not ours, and no reason to wait.
			h.logger.Warn("left alone what is no topic's folder", "path", filepath.Join(h.topicsDir(), name), "err", err)
			continue
		}
		for _, folder := range folders {
			partition, id, ok := parseFolder(folder)
			if ok && (h.has(transport.GroupID{Topic: id, Partition: partition}) || deleted(view, id) || h.assigned(view, id, partition)) {
				continue
			}
			if err := h.quarantine(name, folder); err != nil {
				return err
			}
		}
	}
	return nil
}

func deleted(view *metadata.View, id segment.TopicID) bool {
	_, ok := view.Deletion(id)
	return ok
}

// assigned reports whether the metadata gives this node the replica. If it does not
// run and has not failed, it is still to be made.
func (h *Host) assigned(view *metadata.View, id segment.TopicID, partition int32) bool {
	topic, ok := view.Topic(id)
	return ok && int(partition) < len(topic.Partitions) &&
		slices.ContainsFunc(topic.Partitions[partition].Members(), func(r metadata.Replica) bool { return r.Node == h.node.ID() })
}

func (h *Host) quarantine(topic, folder string) error {
	dir := filepath.Join(h.config.DataDir, "quarantine")
	if err := h.config.FS.MkdirAll(dir); err != nil {
		return err
	}
	from := filepath.Join(h.topicsDir(), topic, folder)
	to := filepath.Join(dir, topic+"-"+folder)
	for n := 1; ; n++ {
		_, err := h.config.FS.Stat(to)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		to = filepath.Join(dir, fmt.Sprintf("%s-%s.%d", topic, folder, n))
	}
	if err := h.config.FS.Rename(from, to); err != nil {
		return err
	}
	h.logger.Warn("set aside a folder that the metadata does not know; it is kept", "folder", from, "kept", to)
	return errors.Join(h.config.FS.SyncDir(dir), h.config.FS.SyncDir(filepath.Dir(from)), h.config.FS.SyncDir(h.config.DataDir))
}

// parallel runs do for each item, a few at a time: opening a replica waits for
// the disk more than it computes.
func parallel[T any](items []T, do func(T) error) []error {
	errs := make([]error, len(items))
	slots := make(chan struct{}, 4*runtime.GOMAXPROCS(0))
	var wait sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(item)
		})
	}
	wait.Wait()
	return errs
}
