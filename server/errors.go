package server

import (
	"context"
	"errors"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/segment"
	"github.com/millrace/millrace/segment/vfs"
)

// A failure is what a client is told: the Kafka code that makes its library do
// the right thing, and a line for the human, where the response has room for one.
//
// One rule stands above the others (K1 of the fault catalogue): a definite error
// means that the record will never be read. So NOT_LEADER_OR_FOLLOWER and its
// like are said only where the batch was certainly not appended, and everything
// that may have been is REQUEST_TIMED_OUT or NOT_ENOUGH_REPLICAS_AFTER_APPEND,
// after which a client knows that it does not know.
type failure struct {
	code    int16
	message string
}

// fail makes a failure with a line of text.
func fail(e *kerr.Error, message string) *failure { return &failure{e.Code, message} }

// Error implements error.
func (f *failure) Error() string {
	if f.message == "" {
		return kerr.ErrorForCode(f.code).Error()
	}
	return f.message
}

// text is the message as the responses carry it.
func (f *failure) text() *string {
	if f == nil || f.message == "" {
		return nil
	}
	return &f.message
}

// batchCodes maps what is wrong with a batch.
var batchCodes = map[segment.Reason]*kerr.Error{
	segment.Corrupt:          kerr.CorruptMessage,
	segment.TooLarge:         kerr.MessageTooLarge,
	segment.InvalidTimestamp: kerr.InvalidTimestamp,
	segment.NullKey:          kerr.InvalidRecord,
	segment.UnsupportedCodec: kerr.UnsupportedCompressionType,
	segment.InvalidRecord:    kerr.InvalidRecord,
	segment.UnsupportedMagic: kerr.UnsupportedForMessageFormat,
}

// batchFailure maps an error of segment.Check.
func batchFailure(err error) *failure {
	var bad *segment.BatchError
	if errors.As(err, &bad) {
		if code, ok := batchCodes[bad.Reason]; ok {
			return fail(code, err.Error())
		}
	}
	return fail(kerr.CorruptMessage, err.Error())
}

// voidCodes maps the definite refusals at the end of the log.
var voidCodes = map[segment.VoidCode]*kerr.Error{
	segment.VoidOutOfOrderSequence: kerr.OutOfOrderSequenceNumber,
	segment.VoidNotLeader:          kerr.NotLeaderForPartition,
	segment.VoidFencedEpoch:        kerr.InvalidProducerEpoch,
	segment.VoidStaleTerm:          kerr.NotLeaderForPartition,
	segment.VoidDuplicateTooOld:    kerr.DuplicateSequenceNumber,
}

// proposalFailure maps the error of a proposal.
func proposalFailure(err error) *failure {
	var void *replication.VoidError
	switch {
	case errors.As(err, &void):
		if code, ok := voidCodes[void.Void.Code]; ok {
			return fail(code, "")
		}
		return fail(kerr.NotLeaderForPartition, "")
	case errors.Is(err, replication.ErrNotLeader), errors.Is(err, replication.ErrClosed):
		return fail(kerr.NotLeaderForPartition, "")
	case errors.Is(err, vfs.ErrNoSpace):
		return fail(kerr.KafkaStorageError, "the data volume is full")
	default: // unknown, the context's end included
		return fail(kerr.RequestTimedOut, "the outcome is unknown: the record may have been written")
	}
}

// readFailure maps an error of reading a log.
func readFailure(err error) *failure {
	var bad *log.CorruptionError
	switch {
	case errors.Is(err, log.ErrOffsetOutOfRange):
		return fail(kerr.OffsetOutOfRange, "")
	case errors.As(err, &bad):
		return fail(kerr.KafkaStorageError, "")
	case errors.Is(err, log.ErrClosed):
		return fail(kerr.NotLeaderForPartition, "")
	default:
		return fail(kerr.KafkaStorageError, "")
	}
}

// refusalCodes maps refusals of the metadata's state machine.
var refusalCodes = map[metadata.Code]*kerr.Error{
	metadata.TopicExists:       kerr.TopicAlreadyExists,
	metadata.UnknownTopic:      kerr.UnknownTopicOrPartition,
	metadata.InvalidTopicName:  kerr.InvalidTopicException,
	metadata.InvalidPartitions: kerr.InvalidPartitions,
	metadata.InvalidReplicas:   kerr.InvalidReplicaAssignment,
	metadata.StaleBroker:       kerr.RequestTimedOut,
	metadata.BeingFounded:      kerr.LeaderNotAvailable,
	metadata.DrainedBroker:     kerr.InvalidReplicaAssignment,
	metadata.UnknownBroker:     kerr.BrokerIDNotRegistered,
	metadata.HoldsReplicas:     kerr.InvalidRequest,
	metadata.AssignmentChanged: kerr.RequestTimedOut,
}

// changeFailure maps an error of a metadata change.
func changeFailure(err error) *failure {
	var refused *metadata.Refusal
	if errors.As(err, &refused) {
		if code, ok := refusalCodes[refused.Code]; ok {
			return fail(code, refused.Detail)
		}
		return fail(kerr.UnknownServerError, refused.Error())
	}
	if errors.Is(err, replication.ErrControllerResigned) { // the client asks who the controller is
		return fail(kerr.NotController, replication.ErrControllerResigned.Error())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fail(kerr.RequestTimedOut, "the metadata group did not answer in time")
	}
	return fail(kerr.RequestTimedOut, "the metadata group could not make the change: "+err.Error())
}

// isReset reports a connection that the other side tore down.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
