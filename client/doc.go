// Package client is the Go SDK of Millrace, a thin layer over franz-go with the
// defaults one wants: idempotent producing, acknowledged by a majority, zstd,
// and errors that say what to do next. It works against every broker that
// speaks the Kafka protocol.
//
// # Opening
//
//	c, err := client.Open(ctx, []string{"127.0.0.1:9092"})
//	if err != nil {
//		return err // errors.Is(err, client.ErrUnreachable): nobody answered in 5 s
//	}
//	defer c.Close() // sends what is buffered, then closes
//
// A [Client] is safe for concurrent use; one a process is enough.
//
// # Producing
//
// [Client.Produce] sends records and returns when every one of them is durable.
// [Client.ProduceAsync] returns at once and calls back; [Client.Flush] waits for
// everything sent so far. Records of one partition keep the order in which they
// were given. Records with a key go to the partition that the key hashes to, as
// with Kafka's own clients.
//
//	err := c.Produce(ctx, &client.Record{Topic: "orders", Key: key, Value: value})
//
// A record that was sent when its context ended, or the client was closed, and that
// has no answer, fails with [ErrOutcomeUnknown]: it may have been written, and sending
// it again may write it twice. At most 10,000 records and 64 MiB of them are under way;
// beyond that producing waits.
//
// No topic is ever created by producing to it: [Admin.Ensure] does that.
//
// # Consuming
//
// [Client.Subscribe] reads topics, from an offset or as a member of a group, and
// [Subscription.Records] is a loop over what it reads:
//
//	sub, err := c.Subscribe(ctx, client.Topics("orders"), client.Group("billing"))
//	if err != nil {
//		return err
//	}
//	defer sub.Close()
//	for record, err := range sub.Records(ctx) {
//		if err != nil {
//			return err
//		}
//		if err := bill(record); err != nil {
//			return err
//		}
//	}
//
// In a group, a record counts as finished when its turn of the loop ends and the
// loop asks for the next one. Finished positions are committed every five
// seconds, when a partition moves to another member, and when the loop ends. A
// turn that is left by break, return or a panic does not finish its record
// (unless [Subscription.Finish] was called): it is read again by whoever gets
// the partition next. So every record is finished at least once. A partition is
// given to another member only between two turns, and a record of a partition
// that is gone is never handed to the loop. A turn that takes longer than the
// group's rebalance time-out (60 s) while others join costs the member its
// partitions.
//
// Without a group nothing is committed; [From] and [Until] choose the range.
//
// # Errors
//
// Errors of a broker are [*KafkaError] and match both the sentinels of this
// package and those of franz-go's kerr with [errors.Is]; [Retryable] says
// whether the same call may succeed later; [Hint] says what a person could do.
//
// # The layer below
//
// [WithKgo] passes any option of franz-go, [Client.Kgo] and [Admin.Kadm] give its
// clients. [Record] and [Header] are its types, so nothing is copied.
package client
