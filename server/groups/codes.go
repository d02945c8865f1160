package groups

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// The Kafka error codes this package answers with.
const codeNone int16 = 0

var (
	codeUnknownServer     = kerr.UnknownServerError.Code
	codeUnknownTopic      = kerr.UnknownTopicOrPartition.Code
	codeMetadataTooLarge  = kerr.OffsetMetadataTooLarge.Code
	codeLoading           = kerr.CoordinatorLoadInProgress.Code
	codeNotAvailable      = kerr.CoordinatorNotAvailable.Code
	codeNotCoordinator    = kerr.NotCoordinator.Code
	codeIllegalGeneration = kerr.IllegalGeneration.Code
	codeInconsistent      = kerr.InconsistentGroupProtocol.Code
	codeInvalidGroup      = kerr.InvalidGroupID.Code
	codeUnknownMember     = kerr.UnknownMemberID.Code
	codeInvalidSession    = kerr.InvalidSessionTimeout.Code
	codeRebalance         = kerr.RebalanceInProgress.Code
	codeInvalidCommitSize = kerr.InvalidCommitOffsetSize.Code
	codeInvalidRequest    = kerr.InvalidRequest.Code
	codeNonEmptyGroup     = kerr.NonEmptyGroup.Code
	codeGroupNotFound     = kerr.GroupIDNotFound.Code
	codeMemberIDRequired  = kerr.MemberIDRequired.Code
	codeGroupMaxSize      = kerr.GroupMaxSizeReached.Code
	codeFencedInstance    = kerr.FencedInstanceID.Code
	codeGroupSubscribed   = kerr.GroupSubscribedToTopic.Code
	codeUnstableOffset    = kerr.UnstableOffsetCommit.Code
	errQueueFull          = errors.New("groups: too many writes are waiting")
	errTooLarge           = errors.New("groups: a write is over the largest append")
)

// writeCode is the answer to a client whose write ended with err. After an
// unknown outcome it is one on which every client looks for the coordinator again
// and repeats the request.
func writeCode(err error, tooLarge int16) int16 {
	switch {
	case err == nil:
		return codeNone
	case errors.Is(err, ErrNotCoordinator):
		return codeNotCoordinator
	case errors.Is(err, errTooLarge):
		return tooLarge
	case errors.Is(err, errQueueFull):
		return codeLoading // the one code that makes a client wait and keep its coordinator
	default:
		return codeNotAvailable
	}
}
