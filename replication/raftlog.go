package replication

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger passes raft's own messages on at debug level. Raft repeats itself
// for every group and heartbeat while a peer is away; what an operator must see
// (lost leadership, a replica that stopped, a peer that is gone) is logged once,
// by the code that handles it.
func raftLogger(logger *slog.Logger, topic string, partition int32) hclog.Logger {
	if !logger.Enabled(context.Background(), slog.LevelDebug) {
		return hclog.NewNullLogger()
	}
	out := raftLines{logger.With("component", "raft", "topic", topic, "partition", partition)}
	return hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Warn, DisableTime: true})
}

// raftLines turns each line that hclog writes into a record.
type raftLines struct{ logger *slog.Logger }

var _ io.Writer = raftLines{}

func (l raftLines) Write(line []byte) (int, error) {
	l.logger.Debug(string(bytes.TrimSpace(line)))
	return len(line), nil
}
