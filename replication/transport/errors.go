package transport

import (
	"errors"
	"fmt"
)

// Errors of a call. Test with errors.Is.
var (
	// ErrPeerDown is a call that was never sent: the peer has no known address,
	// cannot be reached, or refuses us (then the error is also
	// ErrRefusedIdentity). Nothing of the request reached a handler.
	ErrPeerDown = errors.New("peer is down")
	// ErrConnectionLost is a call whose connection broke before its answer came:
	// the peer may or may not have acted on it.
	ErrConnectionLost = errors.New("connection lost before the answer")
	// ErrClosed is a call on a mux that is closed or closes now. A request under
	// way at that moment may have been acted on.
	ErrClosed = errors.New("transport is closed")
	// ErrRefusedIdentity is a handshake that one side ended because of who the
	// other one is. The error in the chain is a *RefusedError.
	ErrRefusedIdentity = errors.New("identity refused")
	// ErrTooLarge is a body above Config.MaxFrame, or above 256 KiB to an address or
	// between nodes of which one knows no cluster yet; nothing was sent.
	ErrTooLarge = errors.New("larger than a frame may be")
	// ErrFrame is bytes that are no frame or no handshake of ours; the error in
	// the chain is a *FrameError. The connection they came on is closed.
	ErrFrame = errors.New("not a valid frame")
)

// FrameError says what was wrong with bytes from a peer.
type FrameError struct {
	// Detail names the field and its value.
	Detail string
}

// Error implements error.
func (e *FrameError) Error() string { return ErrFrame.Error() + ": " + e.Detail }

// Unwrap makes errors.Is(err, ErrFrame) true.
func (e *FrameError) Unwrap() error { return ErrFrame }

// badFrame is a *FrameError with a formatted detail.
func badFrame(format string, args ...any) error {
	return &FrameError{Detail: fmt.Sprintf(format, args...)}
}

// RefusedError is a handshake that one side refused.
type RefusedError struct {
	// Reason is the numbered reason.
	Reason Refusal
	// Text is the reason in words, with both identities.
	Text string
	// Peer is the identity of the other side as far as it told it.
	Peer Peer
	// Own is what this node said of itself: it may have become another since.
	Own Identity
	// ByPeer is true if the other side refused us, false if we refused it.
	ByPeer bool
}

// Error implements error.
func (e *RefusedError) Error() string {
	who := "refused"
	if e.ByPeer {
		who = "refused by the peer"
	}
	return fmt.Sprintf("%s: %s", who, e.Text)
}

// Unwrap makes errors.Is(err, ErrRefusedIdentity) true.
func (e *RefusedError) Unwrap() error { return ErrRefusedIdentity }

// Code is the number of an error that a handler answered with. It travels in
// the frame, so a number never changes its meaning.
type Code uint16

// The mux's own codes are below 64. Codes of the raft facade begin at
// FirstFacadeCode, those of the metadata group and of founding at
// FirstMetaCode, all others at FirstHostCode; they are declared beside the code
// that answers with them.
const (
	// CodeInternal is an error that has no code of its own.
	CodeInternal Code = 1
	// CodeUnknownMethod is a request for a method this node has no handler for.
	CodeUnknownMethod Code = 2
	// CodePanic is a handler that panicked; its connection is closed.
	CodePanic Code = 3
	// CodeTooLarge is an answer above what ErrTooLarge allows a request.
	CodeTooLarge Code = 4
	// CodeBadRequest is a request body that a handler could not decode.
	CodeBadRequest Code = 5

	// FirstFacadeCode is the lowest code of the raft facade and its router.
	FirstFacadeCode Code = 64
	// FirstMetaCode is the lowest code of the metadata group and of founding.
	FirstMetaCode Code = 128
	// FirstHostCode is the lowest code of everything above.
	FirstHostCode Code = 192
)

// maxErrorText bounds the text of a RemoteError on the wire, in bytes.
const maxErrorText = 4 << 10

// RemoteError is the error that the peer's handler answered with. A handler that
// replies with one (anywhere in the chain) decides code and message.
type RemoteError struct {
	// Code is the numbered kind.
	Code Code
	// Message is for people; it is cut at 4 KiB.
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string {
	return fmt.Sprintf("peer answered: %s (code %d)", e.Message, e.Code)
}

// asRemote is the code and message that err travels as.
func asRemote(err error) *RemoteError {
	var remote *RemoteError
	switch {
	case err == nil:
		remote = &RemoteError{Code: CodeInternal, Message: "a handler replied with a nil error"}
	case errors.As(err, &remote):
		remote = &RemoteError{Code: remote.Code, Message: remote.Message}
	default:
		remote = &RemoteError{Code: CodeInternal, Message: err.Error()}
	}
	if remote.Code == 0 {
		remote.Code = CodeInternal
	}
	if len(remote.Message) > maxErrorText {
		remote.Message = remote.Message[:maxErrorText]
	}
	return remote
}
