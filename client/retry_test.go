package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestUnknownTopicIsAskedForAgain: a topic that was made through another broker may be
// unknown for a moment; one that stays unknown is said to be, soon.
func TestUnknownTopicIsAskedForAgain(t *testing.T) {
	unknown := convert(kerr.UnknownTopicOrPartition, "t", -1)
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		got, err := retry(t.Context(), func(context.Context) (int, error) {
			if tries++; tries < 3 {
				return 0, unknown
			}
			return tries, nil
		})
		if got != 3 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		begin := time.Now()
		_, err = retry(t.Context(), func(context.Context) (int, error) { return 0, unknown })
		if took := time.Since(begin); !errors.Is(err, ErrUnknownTopic) || took <= spreadLimit || took > 3*spreadLimit {
			t.Errorf("after %s: %v", took, err)
		}
	})
}
