package metadata

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrIndex is the error of a command that is not after the last applied one.
var ErrIndex = errors.New("metadata: the log goes back")

// State is the state machine. Apply and Restore belong to one goroutine; View
// and Snapshot may be called from any.
type State struct{ view atomic.Pointer[View] }

// NewState is the state before the first command.
func NewState() *State {
	s := &State{}
	s.view.Store(&View{})
	return s
}

// View is the state as of the last applied command.
func (s *State) View() *View { return s.view.Load() }

// Apply takes the command at an index of the log, encoded by EncodeCommand. An
// error means that this program cannot know what the command does (it is
// ErrUnknownCommand, ErrCorrupt or ErrIndex): nothing has changed, and the node
// must stop. A refusal is not an error but a Result.
func (s *State) Apply(index uint64, command []byte) (Result, error) {
	old := s.view.Load()
	if index <= old.index {
		return Result{}, fmt.Errorf("%w: command at %d, applied up to %d", ErrIndex, index, old.index)
	}
	origin, cmd, ignorable, err := DecodeCommand(command)
	if err != nil && !(ignorable && errors.Is(err, ErrUnknownCommand)) {
		return Result{}, fmt.Errorf("apply command at %d: %w", index, err)
	}
	next := draft{*old}
	next.index = index
	if err != nil {
		s.view.Store(&next.View)
		return Result{Code: Ignored, Detail: err.Error(), Index: index}, nil
	}
	result, admitted := next.admit(origin)
	if admitted {
		result = cmd.apply(&next)
		if result.Code != OK { // a refusal changes nothing, whatever it tried
			next = draft{*old}
			next.index = index
		}
		if result.Index == 0 {
			result.Index = index
		}
		next.remember(origin, result)
	}
	s.view.Store(&next.View)
	return result, nil
}
