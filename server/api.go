package server

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// An api is one row of the table of everything this broker answers. Dispatch,
// ApiVersions and the reference page are made from the table, and nothing else
// decides which versions are spoken.
type api struct {
	key  int16
	name string
	// min and max are the versions announced.
	min, max int16
	// served is the lowest version really answered, where that is above min.
	served int16
	// body is the request's shape, for the walk before decoding.
	shape shape

	// Exactly one of the three is set.

	// handle answers an ordinary request. It runs after everything that came
	// before on the connection was answered. An error closes the connection:
	// what a client did wrong is answered with a code in the response.
	handle func(ctx context.Context, n *node, r *request) (kmsg.Response, error)
	// stream is handle for an answer that is more than one encoded message.
	stream func(ctx context.Context, n *node, r *request) (*answer, error)
	// begin starts a request as soon as it was read, while earlier ones still
	// wait for their answers; the function it returns, called in the order of
	// the connection, waits for the result. A nil response is no answer.
	begin func(ctx context.Context, n *node, r *request) (finish func(context.Context) (kmsg.Response, error))
}

// table lists the APIs in the order of their keys; one file an entry.
var table = [...]api{
	{key: 0, name: "Produce", min: 0, max: 13, served: 3, shape: produceShape, begin: beginProduce},
	{key: 1, name: "Fetch", min: 4, max: 18, shape: fetchShape, stream: handleFetch},
	{key: 2, name: "ListOffsets", min: 1, max: 11, shape: listOffsetsShape, handle: handleListOffsets},
	{key: 3, name: "Metadata", min: 0, max: 13, shape: metadataShape, handle: handleMetadata},
	{key: 8, name: "OffsetCommit", min: 2, max: 9, shape: offsetCommitShape, handle: handleOffsetCommit},
	{key: 9, name: "OffsetFetch", min: 1, max: 9, shape: offsetFetchShape, handle: handleOffsetFetch},
	{key: 10, name: "FindCoordinator", min: 0, max: 6, shape: findCoordinatorShape, handle: handleFindCoordinator},
	{key: 11, name: "JoinGroup", min: 0, max: 9, shape: joinGroupShape, handle: handleJoinGroup},
	{key: 12, name: "Heartbeat", min: 0, max: 4, shape: heartbeatShape, handle: handleHeartbeat},
	{key: 13, name: "LeaveGroup", min: 0, max: 5, shape: leaveGroupShape, handle: handleLeaveGroup},
	{key: 14, name: "SyncGroup", min: 0, max: 5, shape: syncGroupShape, handle: handleSyncGroup},
	{key: 15, name: "DescribeGroups", min: 0, max: 6, shape: describeGroupsShape, handle: handleDescribeGroups},
	{key: 16, name: "ListGroups", min: 0, max: 5, shape: listGroupsShape, handle: handleListGroups},
	{key: 18, name: "ApiVersions", min: 0, max: 5, shape: apiVersionsShape, handle: handleAPIVersions},
	{key: 19, name: "CreateTopics", min: 2, max: 7, shape: createTopicsShape, handle: handleCreateTopics},
	{key: 20, name: "DeleteTopics", min: 1, max: 6, shape: deleteTopicsShape, handle: handleDeleteTopics},
	{key: 21, name: "DeleteRecords", min: 0, max: 2, shape: deleteRecordsShape, handle: handleDeleteRecords},
	{key: 22, name: "InitProducerId", min: 0, max: 5, shape: initProducerIDShape, handle: handleInitProducerID},
	{key: 23, name: "OffsetForLeaderEpoch", min: 2, max: 4, shape: offsetForLeaderEpochShape, handle: handleOffsetForLeaderEpoch},
	{key: 32, name: "DescribeConfigs", min: 1, max: 4, shape: describeConfigsShape, handle: handleDescribeConfigs},
	{key: 35, name: "DescribeLogDirs", min: 1, max: 4, shape: describeLogDirsShape, handle: handleDescribeLogDirs},
	{key: 42, name: "DeleteGroups", min: 0, max: 2, shape: deleteGroupsShape, handle: handleDeleteGroups},
	{key: 43, name: "ElectLeaders", min: 0, max: 2, shape: electLeadersShape, handle: handleElectLeaders},
	{key: 44, name: "IncrementalAlterConfigs", min: 0, max: 1, shape: incrementalAlterConfigsShape, handle: handleIncrementalAlterConfigs},
	{key: 45, name: "AlterPartitionReassignments", min: 0, max: 1, shape: alterReassignmentsShape, handle: handleAlterPartitionReassignments},
	{key: 46, name: "ListPartitionReassignments", min: 0, max: 0, shape: listReassignmentsShape, handle: handleListPartitionReassignments},
	{key: 47, name: "OffsetDelete", min: 0, max: 0, shape: offsetDeleteShape, handle: handleOffsetDelete},
	{key: 55, name: "DescribeQuorum", min: 0, max: 2, shape: describeQuorumShape, handle: handleDescribeQuorum},
	{key: 60, name: "DescribeCluster", min: 0, max: 2, shape: describeClusterShape, handle: handleDescribeCluster},
	{key: 64, name: "UnregisterBroker", min: 0, max: 0, shape: unregisterBrokerShape, handle: handleUnregisterBroker},
}

const (
	keyProduce     = 0
	keyAPIVersions = 18
)

// request is one request of a client, decoded.
type request struct {
	header
	api    *api
	body   kmsg.Request // nil for an ApiVersions version that is not spoken
	size   int          // of the frame that body's byte slices point into
	client *client
	at     time.Time // when it was read
}

// lookup finds the row of a key, nil if there is none.
func lookup(table []api, key int16) *api {
	low, high := 0, len(table)
	for low < high {
		mid := (low + high) / 2
		if table[mid].key < key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < len(table) && table[low].key == key {
		return &table[low]
	}
	return nil
}

// speaks reports whether a request of that version is answered.
func (a *api) speaks(version int16) bool {
	return version >= max(a.min, a.served) && version <= a.max
}

// decode turns a frame into a request and tells what it costs in memory beyond
// its frame. An unknown key or version, or a malformed body, is an error that
// closes the connection, as Kafka does; only an unknown version of ApiVersions is
// passed on without a body, to be answered with what is spoken.
func decode(table []api, frame []byte) (*request, int64, error) {
	r := &request{size: len(frame)}
	var body kmsg.Request
	head, rest, err := decodeHeader(frame, func(key, version int16) bool {
		if r.api = lookup(table, key); r.api == nil || !r.api.speaks(version) {
			return false
		}
		body = kmsg.RequestForKey(key)
		body.SetVersion(version)
		return body.IsFlexible()
	})
	r.header = head
	if err != nil {
		return nil, 0, err
	}
	if r.api == nil {
		return nil, 0, fmt.Errorf("%w: key %d", errUnknownAPI, head.key)
	}
	if body == nil {
		if head.key == keyAPIVersions {
			return r, 0, nil
		}
		return nil, 0, fmt.Errorf("%w: %s version %d, spoken are %d to %d",
			errUnknownAPI, r.api.name, head.version, max(r.api.min, r.api.served), r.api.max)
	}
	cost, err := scanBody(rest, r.api.shape, head.version, body.IsFlexible())
	if err == nil {
		err = body.ReadFrom(rest)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("decode %s version %d: %w", r.api.name, head.version, err)
	}
	r.body = body
	return r, cost, nil
}
