package groups

import "time"

// scheduleSweep begins the endless row of sweeps; Close ends it.
func (c *Coordinator) scheduleSweep() {
	c.timers.start(c.cfg.SweepInterval, func(*timer) {
		for _, s := range c.all() {
			s.sweep()
		}
		c.scheduleSweep()
	})
}

// sweep removes what nobody needs: positions whose retention is over, if there is
// one, and groups that have neither members nor positions.
func (s *shard) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != shardActive {
		return
	}
	s.forgetDeleted()
	now := s.c.cfg.Now()
	for _, g := range s.groups {
		switch expired := g.expired(now); {
		case g.deleting:
		case len(expired) > 0:
			s.log.Info("committed positions expired", "group", g.id, "positions", len(expired))
			g.tombstone(expired, false, func(error) {})
		case g.vacant() && now.Sub(g.since) >= s.c.cfg.SweepInterval:
			g.erase(func(error) {})
		}
	}
}

// expired is the positions whose retention is over (KIP-211): of a group without
// members since its last one left or since the commit, whichever is later, and of
// a consumer group those of topics that no member asks for any more.
func (g *group) expired(now time.Time) []topicPartition {
	retention := g.s.c.cfg.Retention
	if retention <= 0 {
		return nil
	}
	var topics map[string]bool
	since := time.Time{}
	switch {
	case g.state == Empty && g.protocolType != "":
		since = g.since
	case g.state == Empty:
	case g.state == Stable:
		var known bool
		if topics, known = g.subscribed(); !known {
			return nil
		}
	default:
		return nil
	}
	var expired []topicPartition
	for _, target := range g.targets() {
		at := g.offsets[target].at
		if since.After(at) {
			at = since
		}
		if now.Sub(at) >= retention && !topics[target.topic] && g.inFlight[target].commits == 0 {
			expired = append(expired, target)
		}
	}
	return expired
}

// erase removes all of a group from the log, and then the group. Until that is
// durable no join or commit is let in, which the tombstones would bury.
func (g *group) erase(done func(error)) {
	g.deleting = true
	g.tombstone(g.everything(), true, func(err error) {
		g.deleting = false
		if err == nil && g.s.groups[g.id] == g {
			g.abandon(codeUnknownMember)
			delete(g.s.groups, g.id)
		}
		done(err)
	})
}
