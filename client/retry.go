package client

import (
	"context"
	"errors"
	"time"
)

const (
	// retryLimit bounds how long a question about the cluster is asked again
	// when its context sets no earlier end: a new leader takes seconds.
	retryLimit = 30 * time.Second
	// firstPause and longestPause bound the pause between two tries.
	firstPause   = 20 * time.Millisecond
	longestPause = 500 * time.Millisecond
	// spreadLimit is how long a broker may take to hear of a new topic.
	spreadLimit = 500 * time.Millisecond
)

// retry asks until the answer is no passing error: a partition may have no leader
// for a moment, a broker may restart. That a topic is unknown counts as an answer
// when it is still so after a moment: another broker may have made it just now.
func retry[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, retryLimit)
	defer cancel()
	begin, pause := time.Now(), firstPause
	for {
		answer, err := ask(ctx)
		if err == nil || !Retryable(err) || errors.Is(err, ErrUnknownTopic) && time.Since(begin) > spreadLimit {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		}
	}
}
