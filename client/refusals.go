package client

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// refusals remembers why the batches that wait were not taken: the last passing
// refusal of each partition, and the last failure of a connection. Without it a
// record that times out would only say that it did, while the broker has said ten
// times that too few replicas are up.
//
// franz-go tells of a refusal that it will retry nowhere but in its log, so this is
// a [kgo.Logger]. What it does not recognize there it leaves alone: then an error
// has no cause, as before. A logger of [WithKgo] takes its place.
type refusals struct {
	mu         sync.Mutex
	partitions map[topicPartition]refusal
	connection refusal
}

// refusal is an error with its time, so that an old one is not given as the cause
// of a failure that has nothing to do with it.
type refusal struct {
	err error
	at  time.Time
}

func newRefusals() *refusals { return &refusals{partitions: map[topicPartition]refusal{}} }

// Level implements [kgo.Logger]: the answers to produce requests are logged at the
// lowest level.
func (r *refusals) Level() kgo.LogLevel { return kgo.LogLevelDebug }

// Log implements [kgo.Logger].
func (r *refusals) Log(_ kgo.LogLevel, message string, pairs ...any) {
	switch {
	case message == "produced":
		if text, ok := valueOf(pairs, "to").(string); ok && strings.Contains(text, "retrying@") {
			r.noteAnswer(text)
		}
	case strings.HasPrefix(message, "produce request failed"):
		if err, ok := valueOf(pairs, "err").(error); ok && err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.connection = refusal{err, time.Now()}
		}
	case strings.HasPrefix(message, "produce partition load error"):
		err, _ := valueOf(pairs, "err").(error)
		topic, _ := valueOf(pairs, "topic").(string)
		partition, ok := valueOf(pairs, "partition").(int32)
		if err != nil && ok {
			r.note(topic, partition, err)
		}
	}
}

func valueOf(pairs []any, key string) any {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == key {
			return pairs[i+1]
		}
	}
	return nil
}

// answered finds in "topic[0{retrying@-1,3(NAME: text)}, 1{5=>8}]" the topics, and the
// partitions with the names of their errors.
var answered = regexp.MustCompile(`([A-Za-z0-9._-]+)\[|(\d+)\{retrying@-?\d+,\d+\(([A-Z0-9_]+):`)

func (r *refusals) noteAnswer(text string) {
	topic := ""
	for _, found := range answered.FindAllStringSubmatch(text, -1) {
		if found[1] != "" {
			topic = found[1]
			continue
		}
		partition, err := strconv.ParseInt(found[2], 10, 32)
		if err == nil && topic != "" {
			r.note(topic, int32(partition), errorNamed(found[3]))
		}
	}
}

func (r *refusals) note(topic string, partition int32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.partitions[topicPartition{topic, partition}] = refusal{convert(err, topic, partition), time.Now()}
}

// since is why the partition, or any of the topic for -1, has taken nothing since then;
// nil if that is not known.
func (r *refusals) since(topic string, partition int32, begin time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.partitions[topicPartition{topic, partition}]
	if partition < 0 {
		for tp, known := range r.partitions {
			if tp.topic == topic && known.at.After(last.at) {
				last = known
			}
		}
	}
	if last.err != nil && !last.at.Before(begin) {
		return last.err
	}
	if r.connection.err != nil && !r.connection.at.Before(begin) {
		return r.connection.err
	}
	return nil
}

// lastCode is above every error code of the protocol.
const lastCode = 1000

// errorNamed is the error of the protocol with this name.
func errorNamed(name string) error {
	for code := int16(-1); code < lastCode; code++ {
		if known := kerr.TypedErrorForCode(code); known != nil && known.Message == name {
			return known
		}
	}
	return errors.New(name)
}
