package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What went wrong, to be tested with errors.Is. A [*KafkaError] matches the one
// that its code belongs to.
var (
	// ErrUnreachable: no broker answered. The error is an *UnreachableError.
	ErrUnreachable = errors.New("no broker answered")
	// ErrClosed: the client or the subscription has been closed.
	ErrClosed = errors.New("client is closed")
	// ErrUnknownTopic: the topic or the partition does not exist.
	ErrUnknownTopic = errors.New("unknown topic or partition")
	// ErrTopicExists: a topic of that name exists already.
	ErrTopicExists = errors.New("topic exists already")
	// ErrInvalidTopic: the name, the number of partitions or of replicas, or a
	// configuration is not allowed.
	ErrInvalidTopic = errors.New("topic is not valid")
	// ErrDenied: authentication failed, or the user lacks a permission.
	ErrDenied = errors.New("denied")
	// ErrUnknownGroup: no such group.
	ErrUnknownGroup = errors.New("unknown group")
	// ErrGroupInUse: the group has members, so it cannot be changed from outside.
	ErrGroupInUse = errors.New("group has members")
	// ErrOffsetOutOfRange: the offset is below the start or above the end of
	// the log.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrRecordTooLarge: larger than the topic's max.message.bytes.
	ErrRecordTooLarge = errors.New("record is too large")
	// ErrLostPartitions: a commit came too late: the partition belongs to
	// another member now.
	ErrLostPartitions = errors.New("partitions belong to another member")
	// ErrOutcomeUnknown: the record was sent, or was about to be, and no answer
	// came: it may have been written.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrFenced: another producer or member has taken this one's name.
	ErrFenced = errors.New("fenced by a newer instance")
)

// UnreachableError tells which addresses were tried, and why the last failed.
type UnreachableError struct {
	// Addresses are those that were given to Open.
	Addresses []string
	// Err is the cause.
	Err error
}

// Error names addresses and cause in one line.
func (e *UnreachableError) Error() string {
	cause := e.Err.Error()
	var number syscall.Errno
	var op *net.OpError
	switch {
	case errors.Is(e.Err, context.DeadlineExceeded):
		cause = "no answer in time"
	case errors.As(e.Err, &number):
		cause = number.Error()
	case errors.As(e.Err, &op) && op.Err != nil:
		cause = op.Err.Error()
	}
	return fmt.Sprintf("no broker answered at %s: %s", strings.Join(e.Addresses, ", "), cause)
}

// Unwrap gives the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Is makes it an ErrUnreachable.
func (e *UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// KafkaError is an error that a broker answered.
type KafkaError struct {
	// Code is the number of the Kafka protocol.
	Code int16
	// Name is the code's name, such as UNKNOWN_TOPIC_OR_PARTITION.
	Name string
	// Message is the broker's own text, or the protocol's description.
	Message string
	// Topic is the topic it is about, or empty.
	Topic string
	// Partition is the partition it is about, or -1.
	Partition int32
}

// Error is the message with what it is about, and the name of the code.
func (e *KafkaError) Error() string {
	about := ""
	switch {
	case e.Topic != "" && e.Partition >= 0:
		about = fmt.Sprintf("topic %q partition %d", e.Topic, e.Partition)
	case e.Topic != "":
		about = fmt.Sprintf("topic %q", e.Topic)
	}
	switch says := kinds[e.Code].says; {
	case about != "" && says != "": // a broker's own text could only repeat it
		return fmt.Sprintf("%s %s (%s)", about, says, e.Name)
	case about != "" && !strings.Contains(e.Message, strconv.Quote(e.Topic)):
		about += ": "
	default:
		about = ""
	}
	return fmt.Sprintf("%s%s (%s)", about, strings.TrimSuffix(e.Message, "."), e.Name)
}

// Unwrap gives franz-go's error of the same code.
func (e *KafkaError) Unwrap() error { return kerr.ErrorForCode(e.Code) }

// Is matches the sentinel that the code belongs to.
func (e *KafkaError) Is(target error) bool {
	k, ok := kinds[e.Code]
	return ok && target == k.sentinel
}

// kind is what this package knows about a Kafka error code.
type kind struct {
	sentinel error
	hint     string
	says     string // what is so about the topic, in better words than the protocol's
}

const (
	hintTopics      = "list topics with: millrace topic list"
	hintGroups      = "list groups with: millrace group list"
	hintCredentials = "check user, password and permissions"
	hintQuorum      = "too few replicas are up; see: millrace cluster health"
	hintReplicas    = "too few replicas are up for the topic's min.insync.replicas; see: millrace topic describe"
	hintMembers     = "stop its members first; see: millrace group describe"
)

// kinds has the codes for which there is a sentinel or something to advise.
var kinds = map[int16]kind{
	kerr.UnknownTopicOrPartition.Code:            {ErrUnknownTopic, hintTopics, "does not exist"},
	kerr.UnknownTopicID.Code:                     {ErrUnknownTopic, hintTopics, "does not exist any more"},
	kerr.TopicAlreadyExists.Code:                 {ErrTopicExists, hintTopics, "exists already"},
	kerr.InvalidTopicException.Code:              {ErrInvalidTopic, "a name has 1 to 249 letters, digits, '.', '_' or '-'", ""},
	kerr.InvalidPartitions.Code:                  {ErrInvalidTopic, "give the topic another number of partitions", ""},
	kerr.InvalidReplicationFactor.Code:           {ErrInvalidTopic, "no more replicas than brokers; see: millrace cluster info", ""},
	kerr.InvalidConfig.Code:                      {ErrInvalidTopic, "", ""},
	kerr.TopicAuthorizationFailed.Code:           {ErrDenied, hintCredentials, ""},
	kerr.GroupAuthorizationFailed.Code:           {ErrDenied, hintCredentials, ""},
	kerr.ClusterAuthorizationFailed.Code:         {ErrDenied, hintCredentials, ""},
	kerr.SaslAuthenticationFailed.Code:           {ErrDenied, hintCredentials, ""},
	kerr.UnsupportedSaslMechanism.Code:           {ErrDenied, hintCredentials, ""},
	kerr.GroupIDNotFound.Code:                    {ErrUnknownGroup, hintGroups, ""},
	kerr.NonEmptyGroup.Code:                      {ErrGroupInUse, hintMembers, ""},
	kerr.GroupSubscribedToTopic.Code:             {ErrGroupInUse, hintMembers, ""},
	kerr.OffsetOutOfRange.Code:                   {ErrOffsetOutOfRange, "see the range with: millrace topic describe", ""},
	kerr.MessageTooLarge.Code:                    {ErrRecordTooLarge, "raise the topic's max.message.bytes, or send smaller records", ""},
	kerr.InvalidRecord.Code:                      {nil, "a compacted topic takes only records with a key; see: millrace topic describe", ""},
	kerr.RecordListTooLarge.Code:                 {ErrRecordTooLarge, "send smaller batches", ""},
	kerr.IllegalGeneration.Code:                  {ErrLostPartitions, "", ""},
	kerr.UnknownMemberID.Code:                    {ErrLostPartitions, "", ""},
	kerr.RebalanceInProgress.Code:                {ErrLostPartitions, "", ""},
	kerr.StaleMemberEpoch.Code:                   {ErrLostPartitions, "", ""},
	kerr.FencedInstanceID.Code:                   {ErrFenced, "two members use one group instance id", ""},
	kerr.InvalidProducerEpoch.Code:               {ErrFenced, "two producers use one transactional id", ""},
	kerr.ProducerFenced.Code:                     {ErrFenced, "two producers use one transactional id", ""},
	kerr.NotEnoughReplicas.Code:                  {nil, hintReplicas, ""},
	kerr.NotEnoughReplicasAfterAppend.Code:       {nil, hintReplicas, ""},
	kerr.LeaderNotAvailable.Code:                 {nil, hintQuorum, ""},
	kerr.KafkaStorageError.Code:                  {nil, "a broker's disk is full or damaged; see its log", ""},
	kerr.CoordinatorNotAvailable.Code:            {nil, hintQuorum, ""},
	kerr.TransactionalIDAuthorizationFailed.Code: {ErrDenied, "there are no transactions in this version of Millrace", ""},
}

// Hint says what a person could do about an error of this package; empty if
// there is nothing better to say than the error itself.
func Hint(err error) string {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		return "is the cluster running and the address right? start one with: millrace server"
	}
	var answered *KafkaError
	if errors.As(err, &answered) {
		return kinds[answered.Code].hint
	}
	return ""
}

// Retryable reports whether the same call may succeed later without anything
// being changed: the cluster was unreachable, a leader was being elected, too
// few replicas were up. One that matches [ErrOutcomeUnknown] is not: producing the
// record again may write it twice.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrClosed) || errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	var answered *KafkaError
	if errors.As(err, &answered) {
		return kerr.IsRetriable(kerr.ErrorForCode(answered.Code))
	}
	var network net.Error
	return errors.Is(err, ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &network) || kgo.IsRetryableBrokerErr(err)
}

// convert gives errors of franz-go this package's types; nil stays nil.
func convert(err error, topic string, partition int32) error {
	if err == nil || errors.As(err, new(*KafkaError)) {
		return err
	}
	if errors.Is(err, kgo.ErrClientClosed) {
		return ErrClosed
	}
	var coded *kerr.Error
	if !errors.As(err, &coded) {
		return err
	}
	return &KafkaError{Code: coded.Code, Name: coded.Message, Message: coded.Description, Topic: topic, Partition: partition}
}

// withMessage is convert with the broker's own words, where it sent some.
func withMessage(err error, message, topic string) error {
	converted := convert(err, topic, -1)
	var answered *KafkaError
	if message != "" && errors.As(converted, &answered) {
		answered.Message = message
	}
	return converted
}

// Typed gives an error of franz-go's clients (see [Client.Kgo] and [Admin.Kadm])
// the types of this package: a broker's answer becomes a [*KafkaError]. Other
// errors, and nil, stay as they are.
func Typed(err error) error { return convert(err, "", -1) }
