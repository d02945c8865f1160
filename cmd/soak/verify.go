package main

import (
	"context"
	"fmt"
	"time"

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
	s.load.WaitRead(waiting, ends, s.crowd.Readers, s.crowd.Group)
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
	folders := map[int]string{}
	for n := 1; n <= s.cluster.Nodes(); n++ {
		folders[n] = s.cluster.DataDir(n)
	}
	records, bytes, err := s.ledger.CheckFolders(vfs.OS(), folders, topic, replicas, ends)
	if err != nil {
		return err
	}
	fmt.Printf("read %d records of %d MB from the segment files of all replicas in %s\n", records, bytes>>20, time.Since(begin).Round(time.Second))
	return nil
}
