package metadata

// MaxClusterID is the longest cluster id in bytes.
const MaxClusterID = 64

// Found gives the cluster its id: the first command of the first leader. A
// second one with the same id changes nothing, one with another is refused.
//
//	u32 length, cluster id
type Found struct {
	// ClusterID is the new id, 1 to MaxClusterID bytes.
	ClusterID string
}

func (*Found) number() number    { return numberFound }
func (f *Found) fields(c *coder) { c.text(&f.ClusterID) }

func (f *Found) apply(d *draft) Result {
	switch {
	case f.ClusterID == "" || len(f.ClusterID) > MaxClusterID:
		return refuse(Malformed, "a cluster id of %d bytes", len(f.ClusterID))
	case d.cluster == "":
		d.cluster = f.ClusterID
	case d.cluster != f.ClusterID:
		return refuse(OtherCluster, "this is cluster %s, not %s", d.cluster, f.ClusterID)
	}
	return Result{}
}
