package server

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/replication/metadata"
)

// DescribeLogDirs (key 35). Version 2 is flexible, 3 adds an error code of the
// whole, 4 the size of the volume. A broker has one directory, its data folder,
// and answers for the replicas on itself.
func handleDescribeLogDirs(_ context.Context, n *node, r *request) (kmsg.Response, error) {
	body := r.body.(*kmsg.DescribeLogDirsRequest)
	view := n.cluster.View()
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = n.dataDir
	dir.TotalBytes, dir.UsableBytes = -1, -1 // not known
	if body.Topics == nil {
		for t := range view.Topics() {
			dir.Topics = appendLogs(dir.Topics, n, t, nil)
		}
	}
	for i := range body.Topics {
		if t, ok := view.TopicNamed(body.Topics[i].Topic); ok {
			dir.Topics = appendLogs(dir.Topics, n, t, body.Topics[i].Partitions)
		}
	}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Dirs = append(resp.Dirs, dir)
	return resp, nil
}

// appendLogs adds the replicas of a topic that are on this node; numbers nil
// stands for all partitions.
func appendLogs(all []kmsg.DescribeLogDirsResponseDirTopic, n *node, t *metadata.Topic, numbers []int32) []kmsg.DescribeLogDirsResponseDirTopic {
	if numbers == nil {
		for i := range t.Partitions {
			numbers = append(numbers, int32(i))
		}
	}
	answer := kmsg.NewDescribeLogDirsResponseDirTopic()
	answer.Topic = t.Name
	for _, number := range numbers {
		p, ok := n.cluster.Partition(t.ID, number)
		if !ok {
			continue
		}
		sp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		sp.Partition, sp.Size = number, p.Log().Size()
		answer.Partitions = append(answer.Partitions, sp)
	}
	if len(answer.Partitions) == 0 {
		return all
	}
	return append(all, answer)
}
