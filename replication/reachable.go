package replication

import "github.com/millrace/millrace/replication/metadata"

// Reachable reports whether a broker can be reached, as far as was seen: it is
// connected, or no attempt to connect has ended yet. So a broker that has just
// started does not take its peers for dead before it has dialled them. One whose
// connection broke is unreachable until it answers again.
func (h *Host) Reachable(node metadata.NodeID) bool {
	if h.Up(node) {
		return true
	}
	status, known := h.mux.Status(node)
	return !known || status.Up || status.Err == nil
}
