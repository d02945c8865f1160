package replication

import (
	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// frames lets the transport read a partition's stored frames, which raft itself
// never carries.
type frames struct{ log *log.Log }

var _ transport.Source = frames{}

// ReadEntries implements transport.Source.
func (f frames) ReadEntries(first segment.Index, count, maxBytes int) ([]byte, []transport.EntryHeader, error) {
	bytes, infos, err := f.log.ReadEntries(first, count, maxBytes)
	if err != nil {
		return nil, nil, err
	}
	headers := make([]transport.EntryHeader, len(infos))
	for i, info := range infos {
		headers[i] = transport.EntryHeader{Index: info.Index, Term: info.Term, Kind: info.Kind, Size: info.Size}
	}
	return bytes, headers, nil
}
