package groups

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// image is the state of a partition while it is read: the last record of every
// key wins, groups and positions are independent of each other.
type image struct {
	groups  map[string]kmsg.GroupMetadataValue
	offsets map[string]map[topicPartition]position
	skipped int // records of other coordinator protocols, or with a key that is garbage
	damaged int // values that are garbage
}

// load reads the log from its start and makes the shard active.
func (s *shard) load() error {
	start := s.c.cfg.Now()
	img := image{groups: map[string]kmsg.GroupMetadataValue{}, offsets: map[string]map[topicPartition]position{}}
	records := 0
	err := s.c.cfg.Store.Load(s.ctx, s.partition, s.term, func(r segment.Record) error {
		records++
		img.apply(r)
		return s.ctx.Err()
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == shardClosed {
		return ErrNotCoordinator
	}
	s.state = shardActive
	s.install(&img)
	s.log.Info("coordinator loaded", "groups", len(s.groups), "records", records, "took", s.c.cfg.Now().Sub(start))
	if img.skipped+img.damaged > 0 {
		s.log.Warn("records in the offsets log that cannot be read", "skipped", img.skipped, "damaged", img.damaged)
	}
	return nil
}

// apply adds one record. Nothing in a record can make it fail: a position whose
// value is garbage is kept as damaged, so that it is answered with an error and
// not as "no position", which would make a consumer start over.
func (img *image) apply(r segment.Record) {
	key, err := decodeKey(r.Key)
	if err != nil {
		img.skipped++
		return
	}
	switch key.version {
	case offsetKeyV0, offsetKeyV1:
		img.applyOffset(key, r)
	case groupKeyV2:
		img.applyGroup(key, r)
	default:
		img.skipped++
	}
}

func (img *image) applyOffset(key recordKey, r segment.Record) {
	offsets := img.offsets[key.group]
	if r.Value == nil {
		delete(offsets, key.target)
		if len(offsets) == 0 {
			delete(img.offsets, key.group)
		}
		return
	}
	p, err := decodePosition(r)
	if err != nil {
		img.damaged++
		p = position{damaged: true, at: time.UnixMilli(r.Timestamp)}
	}
	if offsets == nil {
		offsets = make(map[topicPartition]position)
		img.offsets[key.group] = offsets
	}
	offsets[key.target] = p
}

// applyGroup keeps the last readable metadata. A group whose metadata is garbage
// has no members, who then join again: nothing is lost by that.
func (img *image) applyGroup(key recordKey, r segment.Record) {
	delete(img.groups, key.group)
	if r.Value == nil {
		return
	}
	v, err := decodeGroup(bytes.Clone(r.Value)) // what it returns is part of the bytes
	if err != nil {
		img.damaged++
		return
	}
	img.groups[key.group] = v
}

// install makes the groups. Members are taken over with their generation, so that
// a group goes on without a rebalance; their sessions begin now.
func (s *shard) install(img *image) {
	s.groups = make(map[string]*group, max(len(img.groups), len(img.offsets)))
	for id, offsets := range img.offsets {
		s.group(id, true).offsets = offsets
	}
	for id, v := range img.groups {
		s.group(id, true).restore(v)
	}
	s.forgetDeleted()
}
