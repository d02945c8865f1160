package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions (key 18). Version 3 brings the client's name and flexible encoding
// (of the body; the header of the answer stays without tags, so that every client
// can read it), 4 lets features begin at version 0, 5 says which broker of which
// cluster the client believes to speak with: it is told when it is mistaken, which
// happens where addresses were given to others (KIP-1242).
//
// The newest version matters: a client whose version is not spoken goes on with the
// list, and its name, by which fetch knows what it can decode, is never known.
//
// A version that is not spoken is answered with version 0, UNSUPPORTED_VERSION
// and the full list, from which the client chooses again (KIP-511).

// apiVersionsMax is the newest version spoken.
const apiVersionsMax = 5

// maxSoftwareName bounds the name that a client gives itself.
const maxSoftwareName = 128

func handleAPIVersions(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	resp := kmsg.NewPtrApiVersionsResponse()
	for _, row := range n.apis {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = row.key, row.min, row.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	body, ok := r.body.(*kmsg.ApiVersionsRequest)
	switch {
	case !ok:
		resp.ErrorCode = kerr.UnsupportedVersion.Code
	case body.Version >= 3 && (!softwareName(body.ClientSoftwareName) || !softwareName(body.ClientSoftwareVersion)):
		resp.ErrorCode = kerr.InvalidRequest.Code
		resp.ApiKeys = nil
	case body.Version >= 5 && (body.ClusterID == nil) != (body.NodeID == -1):
		resp.ErrorCode = kerr.InvalidRequest.Code
		resp.ApiKeys = nil
	case body.Version >= 5 && body.ClusterID != nil && !n.is(*body.ClusterID, body.NodeID):
		resp.ErrorCode = kerr.RebootstrapRequired.Code
		resp.ApiKeys = nil
	default:
		r.client.software = body.ClientSoftwareName
	}
	return resp, nil
}

// is reports whether a client that looks for that broker has found it. A broker that
// belongs to no cluster yet is nobody's mistake.
func (n *node) is(cluster string, id int32) bool {
	own := n.cluster.ClusterID()
	return own == "" || cluster == own && id == int32(n.cluster.Node())
}

// softwareName applies the rule of KIP-511: letters, digits, '.' and '-', with a
// letter or digit first and last.
func softwareName(name string) bool {
	if name == "" || len(name) > maxSoftwareName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		word := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !word && (c != '.' && c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return true
}
