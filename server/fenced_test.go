package server

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// listed are the ids of the brokers in a broker's answer to Metadata.
func listed(t *testing.T, addr string) []int32 {
	t.Helper()
	c := dial(t, addr)
	defer c.close()
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	ids := []int32{}
	for _, b := range c.request(t, req).(*kmsg.MetadataResponse).Brokers {
		ids = append(ids, b.NodeID)
	}
	return ids
}

// Clients that ask every broker, as those that list groups do, are not held up by a
// dead one; as soon as it is back they are told of it again.
func TestDeadBrokersAreNotListed(t *testing.T) {
	configs, brokers, addrs := openThree(t)
	admin := kadm.NewClient(newClient(t, addrs))
	createTopic1(t, newClient(t, addrs), "events", 3, 3)
	offsets := kadm.Offsets{}
	offsets.AddOffset("events", 0, 0, -1)
	if err := admin.CommitAllOffsets(t.Context(), "billing", offsets); err != nil {
		t.Fatal(err)
	}
	victim := 2 // not the one that coordinates the group, so that it is listed at once
	if found := admin.FindGroupCoordinators(t.Context(), "billing"); found["billing"].NodeID == int32(victim+1) {
		victim = 1
	}
	if err := brokers[victim].Kill(); err != nil {
		t.Fatal(err)
	}
	// The others see its connections break a moment later; a client that asked before
	// that may have to ask again.
	for _, admin := range []*kadm.Client{admin, kadm.NewClient(newClient(t, addrs))} {
		eventually(t, "groups are listed", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			groups, err := admin.ListGroups(ctx)
			_, ok := groups["billing"]
			return ok && err == nil
		})
	}
	rest := []int32{1, int32(4 - victim)}
	if d := cmp.Diff(rest, listed(t, addrs[0])); d != "" {
		t.Error(d)
	}
	brokers[victim] = openBroker(t, configs[victim])
	eventually(t, "the broker is listed again", func() bool { return len(listed(t, addrs[0])) == 3 })
}
