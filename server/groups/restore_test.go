package groups

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

// TestRestore loads group metadata as other coordinators, and faults, leave it.
func TestRestore(t *testing.T) {
	tests := []struct {
		name   string
		change func(*kmsg.GroupMetadataValue)
		want   State
		leader string
	}{
		{"stable", func(*kmsg.GroupMetadataValue) {}, Stable, "m-1"},
		{"no members", func(v *kmsg.GroupMetadataValue) { v.Members = nil }, Empty, "m-1"},
		{"a leader that is no member", func(v *kmsg.GroupMetadataValue) { v.Leader = nullable("gone") }, Preparing, "m-1"},
		{"no leader", func(v *kmsg.GroupMetadataValue) { v.Leader = nil }, Preparing, "m-1"},
		{"no protocol", func(v *kmsg.GroupMetadataValue) { v.Protocol = nil }, Preparing, "m-1"},
		{"too many members", func(v *kmsg.GroupMetadataValue) {
			v.Members = append(v.Members, v.Members[1])
			v.Members[2].MemberID = "m-3"
		}, Preparing, "m-1"},
		{"version 0", func(v *kmsg.GroupMetadataValue) { v.Version = 0 }, Stable, "m-1"},
		{"time-outs out of range", func(v *kmsg.GroupMetadataValue) {
			v.Members[0].SessionTimeoutMillis, v.Members[0].RebalanceTimeoutMillis = -5, -5
			v.Members[1].SessionTimeoutMillis = 1 << 30
		}, Stable, "m-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, store := start(t, func(cfg *Config) { cfg.MaxGroupSize = 2 })
				defer c.Close()
				synctest.Wait()
				v := goldenGroup()
				tt.change(&v)
				store.log[0] = append(store.log[0], segment.Record{Key: groupKey("g"), Value: v.AppendTo(nil)})
				store.elect(0, 2)
				c.Lead(0, 2)
				synctest.Wait()
				s, code := c.lock("g")
				if code != codeNone {
					t.Fatal(codeName(code))
				}
				g := s.groups["g"]
				if g.state != tt.want || g.leader != tt.leader || g.generation != 12 || g.protocolType != consumerType {
					t.Errorf("state %s, leader %q, generation %d, type %q", g.state, g.leader, g.generation, g.protocolType)
				}
				for _, m := range g.members {
					if m.session < c.cfg.MinSessionTimeout || m.session > c.cfg.MaxSessionTimeout || m.rebalance <= 0 {
						t.Errorf("member %s: session %s, rebalance %s", m.id, m.session, m.rebalance)
					}
				}
				s.mu.Unlock()
				// Whatever it was, a group whose members stay away comes to an end.
				<-time.After(2 * time.Hour)
				list := c.Handle(t.Context(), kmsg.NewPtrListGroupsRequest(), ClientInfo{}).(*kmsg.ListGroupsResponse)
				if len(list.Groups) != 0 {
					t.Errorf("still there: %+v", list.Groups)
				}
				if last := fmt.Sprint(recordText(store.log[0][len(store.log[0])-1])); last != "group g: tombstone" {
					t.Errorf("the log ends with %s", last)
				}
			})
		})
	}
}
