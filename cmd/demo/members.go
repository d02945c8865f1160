package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/client"
	"github.com/millrace/millrace/cmd/internal/checker"
)

// members are the two members of the group, each a client of its own.
type members struct {
	all    []*member
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

type member struct {
	name   string
	client *client.Client
	sub    *client.Subscription
	ended  chan error
}

// joinMembers starts two members, which hand everything to the checker.
func joinMembers(ctx context.Context, addrs []string, c *corpus, check *checker.Checker, fail context.CancelCauseFunc) (*members, error) {
	reading, cancel := context.WithCancel(ctx)
	ms := &members{cancel: cancel}
	for _, name := range []string{"member-1", "member-2"} {
		m, err := join(ctx, name, addrs)
		if err != nil {
			ms.stop()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ms.all = append(ms.all, m)
		go func() {
			err := m.read(reading, c, check)
			if err != nil {
				fail(fmt.Errorf("%s: %w", m.name, err))
			}
			m.ended <- err
		}()
	}
	return ms, nil
}

func join(ctx context.Context, name string, addrs []string) (*member, error) {
	c, err := client.Open(ctx, addrs, client.WithClientID(name))
	if err != nil {
		return nil, err
	}
	sub, err := c.Subscribe(ctx, client.Topics(topic), client.Group(group), client.CommitEvery(time.Second))
	if err != nil {
		c.Close()
		return nil, err
	}
	return &member{name: name, client: c, sub: sub, ended: make(chan error, 1)}, nil
}

// read is the loop of a consumer.
func (m *member) read(ctx context.Context, c *corpus, check *checker.Checker) error {
	for record, err := range m.sub.Records(ctx) {
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		e, err := c.parse(record)
		if err != nil {
			check.Strange(record.Partition, record.Offset, err.Error())
			continue
		}
		check.Consumed(e, record.Partition, record.Offset)
	}
	return nil
}

// waitAssigned waits until every partition has a reader and every member has one.
func (ms *members) waitAssigned(ctx context.Context) error {
	for {
		assigned, idle := 0, false
		for _, m := range ms.all {
			n := len(m.sub.Assigned()[topic])
			assigned += n
			idle = idle || n == 0
		}
		if assigned == partitions && !idle {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the members got no partitions"), context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// partitions tells who reads what.
func (ms *members) partitions() string {
	text := ""
	for i, m := range ms.all {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %v", m.name, m.sub.Assigned()[topic])
	}
	return text
}

// stop lets both leave the group; their last positions are committed.
func (ms *members) stop() error {
	ms.once.Do(func() {
		ms.cancel()
		errs := make([]error, len(ms.all))
		var leaving sync.WaitGroup
		for i, m := range ms.all {
			leaving.Go(func() { errs[i] = errors.Join(<-m.ended, m.sub.Close(), m.client.Close()) })
		}
		leaving.Wait()
		ms.err = errors.Join(errs...)
	})
	return ms.err
}
