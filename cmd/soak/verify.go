package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/cmd/internal/durability"
	"github.com/millrace/millrace/segment/vfs"
)

// drain ends the producers and waits until every consumer has read everything.
func (s *soak) drain(ctx context.Context) ([]int64, error) {
	fmt.Println("the producers stop; the consumers read what is left")
	s.load.StopProducers()
	waiting, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	ends, err := s.load.Ends(waiting)
	if err != nil {
		return nil, err
	}
	s.load.WaitRead(waiting, ends, s.readers, s.group)
	s.load.Close()
	return ends, nil
}

// verify stops the brokers, reads the segment files of all replicas, and compares
// them with what the clients were told and with one another.
func (s *soak) verify(ctx context.Context, ends []int64) error {
	begin := time.Now()
	stopping, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if err := s.cluster.Close(stopping); err != nil {
		return err
	}
	found := map[int32][]durability.Replica{}
	for n := 1; n <= s.cluster.Nodes(); n++ {
		rs, err := durability.FindReplicas(vfs.OS(), s.cluster.DataDir(n), n, topic)
		if err != nil {
			return err
		}
		for _, r := range rs {
			if r.Doubtful() {
				s.faults.Add(durability.CE, "%s met an end that it could not judge, without a power cut", r)
			}
			found[r.Partition] = append(found[r.Partition], r)
		}
	}
	records, bytes := int64(0), int64(0)
	for p := range int32(partitions) {
		if len(found[p]) != replicas {
			return fmt.Errorf("partition %d has %d replicas on disk", p, len(found[p]))
		}
		for _, c := range s.ledger.CheckAll(found[p], ends[p]) {
			records, bytes = records+c.Records, bytes+c.Bytes
		}
	}
	fmt.Printf("read %d records of %d MB from the segment files of all replicas in %s\n", records, bytes>>20, time.Since(begin).Round(time.Second))
	return nil
}
