package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/client"
)

// addresses stands for the addresses of your brokers: []string{"127.0.0.1:9092"}.

func ExampleOpen() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Println(c.Ping(ctx))
	// Output: <nil>
}

func ExampleOpen_unreachable() {
	_, err := client.Open(context.Background(), []string{"127.0.0.1:1"})
	fmt.Println(errors.Is(err, client.ErrUnreachable), client.Retryable(err))
	fmt.Println(client.Hint(err))
	// Output:
	// true true
	// is the cluster running and the address right? start one with: millrace server
}

func ExampleAdmin_Ensure() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	for range 2 {
		created, differences, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "ensured", Partitions: 3})
		fmt.Println(created, differences, err)
	}
	// Output:
	// true [] <nil>
	// false [] <nil>
}

func ExampleClient_Produce() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "orders", Partitions: 1}); err != nil {
		panic(err)
	}
	record := &client.Record{Topic: "orders", Key: []byte("customer-7"), Value: []byte("two apples")}
	if err := c.Produce(ctx, record); err != nil {
		panic(err)
	}
	fmt.Printf("partition %d, offset %d\n", record.Partition, record.Offset)
	// Output: partition 0, offset 0
}

func ExampleClient_ProduceAsync() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "clicks", Partitions: 1}); err != nil {
		panic(err)
	}
	for i := range 3 {
		c.ProduceAsync(ctx, &client.Record{Topic: "clicks", Value: fmt.Append(nil, i)}, func(r *client.Record, err error) {
			fmt.Printf("%s: offset %d, %v\n", r.Value, r.Offset, err)
		})
	}
	if err := c.Flush(ctx); err != nil {
		panic(err)
	}
	// Output:
	// 0: offset 0, <nil>
	// 1: offset 1, <nil>
	// 2: offset 2, <nil>
}

// Reading a range, without a group: nothing is committed.
func ExampleClient_Subscribe() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "letters", Partitions: 1}); err != nil {
		panic(err)
	}
	for _, letter := range []string{"a", "b", "c", "d"} {
		if err := c.Produce(ctx, &client.Record{Topic: "letters", Value: []byte(letter)}); err != nil {
			panic(err)
		}
	}
	sub, err := c.Subscribe(ctx, client.Topics("letters"), client.From(client.BeforeEnd(2)), client.Until(client.End()))
	if err != nil {
		panic(err)
	}
	for record, err := range sub.Records(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d %s\n", record.Offset, record.Value)
	}
	// Output:
	// 2 c
	// 3 d
}

// Consuming in a group: a record is finished when its turn of the loop ends, and
// finished positions are committed. The next member goes on from there.
func ExampleSubscription_Records() {
	ctx := context.Background()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "jobs", Partitions: 1}); err != nil {
		panic(err)
	}
	for i := range 3 {
		if err := c.Produce(ctx, &client.Record{Topic: "jobs", Value: fmt.Append(nil, "job ", i)}); err != nil {
			panic(err)
		}
	}
	work := func(record *client.Record) error {
		if string(record.Value) == "job 1" {
			return errors.New("the printer is out of paper")
		}
		return nil
	}
	for range 2 {
		sub, err := c.Subscribe(ctx, client.Topics("jobs"), client.Group("workers"))
		if err != nil {
			panic(err)
		}
		for record, err := range sub.Records(ctx) {
			if err != nil {
				panic(err)
			}
			if err := work(record); err != nil {
				fmt.Printf("%s: %v\n", record.Value, err)
				break // not finished: it is read again
			}
			fmt.Printf("%s: done\n", record.Value)
		}
		if err := sub.Close(); err != nil {
			panic(err)
		}
	}
	// Output:
	// job 0: done
	// job 1: the printer is out of paper
	// job 1: the printer is out of paper
}

// Committing by hand, here once for several records.
func ExampleSubscription_Commit() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Open(ctx, addresses)
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, _, err := c.Admin().Ensure(ctx, client.TopicSpec{Name: "payments", Partitions: 1}); err != nil {
		panic(err)
	}
	for i := range 4 {
		if err := c.Produce(ctx, &client.Record{Topic: "payments", Value: fmt.Append(nil, i)}); err != nil {
			panic(err)
		}
	}
	sub, err := c.Subscribe(ctx, client.Topics("payments"), client.Group("ledger"), client.CommitManually(), client.Until(client.End()))
	if err != nil {
		panic(err)
	}
	defer sub.Close()
	var batch []*client.Record
	for record, err := range sub.Records(ctx) {
		if err != nil {
			panic(err)
		}
		if batch = append(batch, record); len(batch) == 2 {
			if err := sub.Commit(ctx, batch...); err != nil {
				panic(err)
			}
			fmt.Println("committed up to", record.Offset)
			batch = nil
		}
	}
	// Output:
	// committed up to 1
	// committed up to 3
}
