package server

import (
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

const (
	// sessionIdle is how long a fetch session must have been unused before
	// another client's may take its place.
	sessionIdle = 2 * time.Minute
	// maxSessionPartitions bounds the partitions of all sessions of a node.
	maxSessionPartitions = 500_000
	// fetchInitial and fetchFinal are the session epochs with a meaning.
	fetchInitial, fetchFinal = 0, -1
)

// sessionCache keeps incremental fetch sessions (KIP-227): a consumer names its
// partitions once, then only what changes, and is answered only with what has
// changed. The cache is bounded; a client that finds no place is served without a
// session.
type sessionCache struct {
	slots int

	mu         sync.Mutex
	byID       map[int32]*list.Element // of *storedSession
	byUse      *list.List              // least recently used first
	partitions int
}

// storedSession is a session between requests; guarded by the cache.
type storedSession struct {
	id    int32
	epoch int32 // of the next request
	byIDs bool  // names topics by id
	used  time.Time
	order *list.List // of *fetchPartition, in the order in which they are served
	keys  map[sessionKey]*list.Element
}

type sessionKey struct {
	ref    topicRef
	number int32
}

// fetchSession is what one request sees of its session.
type fetchSession struct {
	id          int32 // 0: without one
	wanted      []*fetchPartition
	incremental bool
	cache       *sessionCache
}

func newSessionCache(slots int) *sessionCache {
	return &sessionCache{slots: slots, byID: map[int32]*list.Element{}, byUse: list.New()}
}

// open finds or makes the session of a request and takes what the request says
// about its partitions. A code other than 0 answers the request.
func (c *sessionCache) open(body *kmsg.FetchRequest, now time.Time) (fetchSession, int16) {
	if body.Version < 7 || body.SessionEpoch == fetchFinal || body.SessionEpoch == fetchInitial {
		c.mu.Lock()
		defer c.mu.Unlock()
		if body.Version >= 7 && body.SessionID != 0 {
			c.removeLocked(body.SessionID)
		}
		s := fetchSession{wanted: requested(body)}
		if body.Version >= 7 && body.SessionEpoch == fetchInitial {
			s.id = c.storeLocked(body, s.wanted, now)
			s.cache = c
			if s.id != 0 { // the session keeps its own copy
				s.wanted = c.snapshotLocked(s.id)
			}
		}
		return s, 0
	}
	return c.resume(body, now)
}

// resume continues a session.
func (c *sessionCache) resume(body *kmsg.FetchRequest, now time.Time) (fetchSession, int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place, ok := c.byID[body.SessionID]
	if !ok {
		return fetchSession{}, kerr.FetchSessionIDNotFound.Code
	}
	s := place.Value.(*storedSession)
	if s.epoch != body.SessionEpoch {
		return fetchSession{}, kerr.InvalidFetchSessionEpoch.Code
	}
	if s.byIDs != (body.Version >= 13) {
		return fetchSession{}, kerr.FetchSessionTopicIDError.Code
	}
	if s.epoch++; s.epoch < 0 || s.epoch == math.MaxInt32 {
		s.epoch = 1
	}
	s.used = now
	c.byUse.MoveToBack(place)
	for _, p := range requested(body) {
		c.putLocked(s, p)
	}
	for i := range body.ForgottenTopics {
		t := &body.ForgottenTopics[i]
		for _, number := range t.Partitions {
			c.forgetLocked(s, sessionKey{topicRef{t.Topic, t.TopicID}, number})
		}
	}
	return fetchSession{id: s.id, incremental: true, cache: c, wanted: c.snapshotLocked(s.id)}, 0
}

// requested lists the partitions a request names.
func requested(body *kmsg.FetchRequest) []*fetchPartition {
	var all []*fetchPartition
	for i := range body.Topics {
		t := &body.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			want := &fetchPartition{ref: topicRef{t.Topic, t.TopicID}, number: p.Partition, epoch: -1,
				offset: segment.Offset(p.FetchOffset), maxBytes: p.PartitionMaxBytes}
			if body.Version >= 9 {
				want.epoch = p.CurrentLeaderEpoch
			}
			all = append(all, want)
		}
	}
	return all
}

// storeLocked makes a session, and returns 0 if there is no place for it.
func (c *sessionCache) storeLocked(body *kmsg.FetchRequest, wanted []*fetchPartition, now time.Time) int32 {
	if c.partitions+len(wanted) > maxSessionPartitions {
		return 0
	}
	if c.byUse.Len() >= c.slots {
		oldest := c.byUse.Front()
		if oldest == nil || now.Sub(oldest.Value.(*storedSession).used) < sessionIdle {
			return 0
		}
		c.removeLocked(oldest.Value.(*storedSession).id)
	}
	id := rand.Int32N(math.MaxInt32-1) + 1
	for c.byID[id] != nil {
		id = rand.Int32N(math.MaxInt32-1) + 1
	}
	s := &storedSession{id: id, epoch: 1, byIDs: body.Version >= 13, used: now, order: list.New(), keys: map[sessionKey]*list.Element{}}
	c.byID[id] = c.byUse.PushBack(s)
	for _, p := range wanted {
		c.putLocked(s, p)
	}
	return id
}

// putLocked adds or updates a partition of a session.
func (c *sessionCache) putLocked(s *storedSession, p *fetchPartition) {
	key := sessionKey{p.ref, p.number}
	if place, ok := s.keys[key]; ok {
		kept := place.Value.(*fetchPartition)
		kept.offset, kept.maxBytes, kept.epoch = p.offset, p.maxBytes, p.epoch
		return
	}
	if c.partitions >= maxSessionPartitions {
		return
	}
	kept := *p
	s.keys[key] = s.order.PushBack(&kept)
	c.partitions++
}

func (c *sessionCache) forgetLocked(s *storedSession, key sessionKey) {
	if place, ok := s.keys[key]; ok {
		s.order.Remove(place)
		delete(s.keys, key)
		c.partitions--
	}
}

func (c *sessionCache) removeLocked(id int32) {
	place, ok := c.byID[id]
	if !ok {
		return
	}
	c.partitions -= len(place.Value.(*storedSession).keys)
	c.byUse.Remove(place)
	delete(c.byID, id)
}

// snapshotLocked copies a session's partitions: the request works on its own.
func (c *sessionCache) snapshotLocked(id int32) []*fetchPartition {
	s := c.byID[id].Value.(*storedSession)
	all := make([]*fetchPartition, 0, s.order.Len())
	for e := s.order.Front(); e != nil; e = e.Next() {
		p := *e.Value.(*fetchPartition)
		all = append(all, &p)
	}
	return all
}

// skips reports whether an incremental answer leaves the result out.
func (s *fetchSession) skips(r *fetchResult) bool {
	sent := &r.want.sent
	return s.incremental && r.code == 0 && r.size == 0 && sent.known &&
		sent.watermark == r.watermark && sent.start == r.start
}

// sent notes what the answer says, and puts partitions that had records behind
// the others, so that a busy one does not starve the rest.
func (s *fetchSession) sent(results []fetchResult) {
	if s.cache == nil || s.id == 0 {
		return
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	place, ok := s.cache.byID[s.id]
	if !ok {
		return
	}
	stored := place.Value.(*storedSession)
	for i := range results {
		r := &results[i]
		kept, ok := stored.keys[sessionKey{r.want.ref, r.want.number}]
		if !ok {
			continue
		}
		p := kept.Value.(*fetchPartition)
		p.sent.watermark, p.sent.start, p.sent.known = r.watermark, r.start, r.code == 0
		if r.size > 0 {
			stored.order.MoveToBack(kept)
		}
	}
}
