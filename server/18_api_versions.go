package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions (key 18). Version 3 brings the client's name and flexible encoding
// (of the body; the header of the answer stays without tags, so that every client
// can read it), 4 lets features begin at version 0.
//
// A version that is not spoken is answered with version 0, UNSUPPORTED_VERSION
// and the full list, from which the client chooses again (KIP-511).

// apiVersionsMax is the newest version spoken.
const apiVersionsMax = 4

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
	default:
		r.client.software = body.ClientSoftwareName
	}
	return resp, nil
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
