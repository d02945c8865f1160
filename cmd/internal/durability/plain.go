package durability

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/segment"
)

const (
	// plainTimeout bounds a produce request of a plain producer at the broker.
	plainTimeout = 2 * time.Second
	// plainPause is the pause between two of its batches.
	plainPause = 2 * time.Millisecond
	// everyCorrupt and everyLarge say how often its batch must be refused.
	everyCorrupt = 13
	everyLarge   = 29
)

// Plain starts a producer that sends each batch once, to whom it takes for the
// leader, so that it sees every error of the brokers itself. Which errors are
// definite is in definite; all of its records that got one must never be read.
func (l *Load) Plain() error {
	client, err := l.client(kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	p := &plain{load: l, client: client, id: l.next}
	l.next++
	for partition := range l.target.Partitions {
		l.ledger.open(p.id, partition, false)
	}
	l.producers.Go(p.run)
	return nil
}

// plain is one plain producer. It learns leaders as clients do, from Metadata and
// from the answers to its mistakes.
type plain struct {
	load   *Load
	client *kgo.Client
	id     int
}

func (p *plain) run() {
	defer p.client.Close()
	for n := int64(0); rest(p.load.producing, plainPause); n++ {
		e := Event{Producer: p.id, Partition: int32(n % int64(p.load.target.Partitions)), Sequence: n / int64(p.load.target.Partitions)}
		p.load.sent.Add(1)
		p.load.gate.RLock()
		sent := p.send(e, n)
		p.load.gate.RUnlock()
		if !sent {
			rest(p.load.producing, 10*time.Millisecond)
		}
	}
}

// send produces one event; false if there was nobody to send it to, or an error.
func (p *plain) send(e Event, n int64) bool {
	topic, leader, ok := p.leader(e.Partition)
	if !ok {
		p.load.ledger.Refused(e) // it was not even sent
		return false
	}
	size := p.load.target.ValueBytes
	if n%everyLarge == everyLarge-1 {
		size = p.load.target.MaxMessageBytes + 1024
	}
	batch := segment.Build([]segment.Record{{Timestamp: time.Now().UnixMilli(), Value: e.encode(p.load.ledger.run, size)}}, segment.BuildOptions{})
	if n%everyCorrupt == everyCorrupt-1 {
		batch[len(batch)-1] ^= 1
	}
	offset, err := p.produce(topic, leader, e.Partition, batch)
	switch {
	case err == nil && (n%everyLarge == everyLarge-1 || n%everyCorrupt == everyCorrupt-1):
		p.load.faults.Add(CE, "%s is a bad batch and was acknowledged at offset %d", e, offset)
	case err == nil:
		p.load.acked(e, offset)
		return true
	case definite(err):
		p.load.ledger.Refused(e)
	default:
		p.load.ledger.Unknown(e)
	}
	return false
}

// leader asks any broker.
func (p *plain) leader(partition int32) (topic [16]byte, node int32, ok bool) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(p.load.target.Topic)
	req.Topics = append(req.Topics, t)
	ctx, cancel := context.WithTimeout(p.load.producing, plainTimeout)
	defer cancel()
	resp, err := p.client.Request(ctx, req)
	if err != nil {
		return topic, 0, false
	}
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		for _, q := range t.Partitions {
			if q.Partition == partition && q.Leader >= 0 {
				return t.TopicID, q.Leader, true
			}
		}
	}
	return topic, 0, false
}

// produce sends one batch.
func (p *plain) produce(id [16]byte, node, partition int32, batch []byte) (offset int64, err error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(plainTimeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = p.load.target.Topic, id
	q := kmsg.NewProduceRequestTopicPartition()
	q.Partition, q.Records = partition, batch
	t.Partitions = append(t.Partitions, q)
	req.Topics = append(req.Topics, t)
	// The end of the run does not end the wait: an outcome that can be known is.
	ctx, cancel := context.WithTimeout(context.Background(), 2*plainTimeout)
	defer cancel()
	resp, err := p.client.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return 0, err
	}
	answer := resp.(*kmsg.ProduceResponse)
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		p.load.faults.Add(CE, "a produce of one partition was answered for %d topics", len(answer.Topics))
		return 0, kerr.UnknownServerError
	}
	sp := answer.Topics[0].Partitions[0]
	return sp.BaseOffset, kerr.ErrorForCode(sp.ErrorCode)
}
