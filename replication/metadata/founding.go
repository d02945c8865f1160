package metadata

import "fmt"

const (
	// MaxClusterID is the longest cluster id in bytes.
	MaxClusterID = 64
	// MaxFounders is the most brokers that may found a cluster together.
	MaxFounders = 1024
)

// A cluster of several founders begins with one registered broker. What is decided
// by the number of brokers, the replicas of a new topic above all, would be decided
// for one, and stay so. So the founder writes how many they are, and until as many
// have registered and vote in the metadata group the cluster is being founded: topics
// are refused, and no broker is ready. Then the group's leader ends it, for ever: that
// brokers are down or leave later does not bring it back. Without the votes a cluster
// could be ready and, when its first broker dies, have no quorum.

// Found gives the cluster its id: the first command of the first leader. A
// second one with the same id changes nothing, one with another is refused.
//
//	u32 length, cluster id | version 2: u32 founders
type Found struct {
	// ClusterID is the new id, 1 to MaxClusterID bytes.
	ClusterID string
	// Founders is how many brokers found the cluster, at most MaxFounders; 0, as in
	// version 1, waits for nobody.
	Founders uint32
}

func (*Found) number() number { return numberFound }

func (f *Found) fields(c *coder) {
	c.text(&f.ClusterID)
	if c.version >= 2 {
		code32(c, &f.Founders)
	}
}

func (f *Found) apply(d *draft) Result {
	switch {
	case f.ClusterID == "" || len(f.ClusterID) > MaxClusterID:
		return refuse(Malformed, "a cluster id of %d bytes", len(f.ClusterID))
	case f.Founders > MaxFounders:
		return refuse(Malformed, "%d founders, at most %d", f.Founders, MaxFounders)
	case d.cluster == "":
		d.cluster = f.ClusterID
		d.awaitFounders(f.Founders)
	case d.cluster != f.ClusterID:
		return refuse(OtherCluster, "this is cluster %s, not %s", d.cluster, f.ClusterID)
	}
	return Result{}
}

// FoundWithout lowers the number of founders that are waited for, when some of
// them will never come. A number that is not lower changes nothing.
//
//	u32 founders
type FoundWithout struct {
	// Founders is how many brokers are enough, at least 1.
	Founders uint32
}

func (*FoundWithout) number() number { return numberFoundWithout }

func (f *FoundWithout) fields(c *coder) { code32(c, &f.Founders) }

func (f *FoundWithout) apply(d *draft) Result {
	if f.Founders == 0 {
		return refuse(Malformed, "a cluster founded by no broker")
	}
	d.awaitFounders(min(d.founders, f.Founders))
	return Result{}
}

// awaitFounders sets how many founders are waited for; one waits for nobody.
func (d *draft) awaitFounders(count uint32) {
	if count <= 1 {
		count = 0
	}
	d.founders = count
}

// EndFounding ends the founding of the cluster. The leader of the metadata group
// writes it when enough brokers vote there, which the state machine does not see. It
// is refused while fewer than the founders have registered; after the end it changes
// nothing. It has no fields.
type EndFounding struct{}

func (*EndFounding) number() number { return numberEndFounding }
func (*EndFounding) fields(*coder)  {}

func (*EndFounding) apply(d *draft) Result {
	if d.brokers.size() < int(d.founders) {
		return refuse(BeingFounded, "%d of %d founding brokers have joined", d.brokers.size(), d.founders)
	}
	d.founders = 0
	return Result{}
}

// Founders is how many brokers found the cluster, 0 once that is done.
func (v *View) Founders() int { return int(v.founders) }

// Founding reports whether the cluster is being founded, and in words how far
// that is.
func (v *View) Founding() (progress string, founding bool) {
	if v.founders == 0 {
		return "", false
	}
	if v.BrokerCount() >= int(v.founders) {
		return fmt.Sprintf("all %d founding brokers have joined, and some wait for their vote", v.founders), true
	}
	return fmt.Sprintf("%d of %d founding brokers have joined", v.BrokerCount(), v.founders), true
}
