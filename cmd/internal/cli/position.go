package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/client"
)

// positionHelp is the grammar of positions, for help and messages.
const positionHelp = `start, end, OFFSET, +N (N after the start), -N (N before the end),
@TIME (2026-11-01, 2026-11-01T10:00:00Z, a Unix time, or -1h for an hour ago);
FROM:TO is a range, either side may be left out`

// positionRange is what consume -o says: where to begin, and where to end if it
// names an end.
type positionRange struct {
	from  client.Position
	until *client.Position
}

// parseRange reads a position or a range of two. Times contain colons, too, so a
// text that is a whole position is never split, and otherwise the first colon
// counts that leaves two positions.
func parseRange(text string, now time.Time) (positionRange, error) {
	whole, err := parsePosition(text, now)
	if err == nil {
		return positionRange{from: whole}, nil
	}
	for i, r := range text {
		if r != ':' {
			continue
		}
		from, until := client.Start(), client.End()
		var fromErr, untilErr error
		if i > 0 {
			from, fromErr = parsePosition(text[:i], now)
		}
		if i+1 < len(text) {
			until, untilErr = parsePosition(text[i+1:], now)
		}
		if fromErr == nil && untilErr == nil {
			return positionRange{from: from, until: &until}, nil
		}
	}
	return positionRange{}, err
}

// parsePosition reads one position. A time may be given without '@' where it
// cannot be mistaken for an offset.
func parsePosition(text string, now time.Time) (client.Position, error) {
	switch text {
	case "start", "earliest", "beginning":
		return client.Start(), nil
	case "end", "latest":
		return client.End(), nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		switch {
		case text[0] == '+':
			return client.AfterStart(n), nil
		case text[0] == '-':
			return client.BeforeEnd(-n), nil
		}
		return client.At(n), nil
	}
	if t, ok := parseTime(strings.TrimPrefix(text, "@"), now, text[:min(1, len(text))] == "@"); ok {
		return client.Time(t), nil
	}
	return client.Position{}, fmt.Errorf("%q is no position: use %s", text, positionHelp)
}

// asked is an absolute offset that was asked for, with the ends of the logs it is to
// be found in.
type asked struct {
	offset       int64
	starts, ends map[int32]int64
}

// askedFor is the offset that a position or the beginning of a range names; false if
// it is another kind of position.
func askedFor(text string) (int64, bool) {
	from, _, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(from, 10, 63)
	return int64(n), err == nil
}

// lookUp finds the ends of a topic's logs.
func lookUp(ctx context.Context, c *client.Client, topic string, offset int64) (asked, error) {
	starts, err := c.Offsets(ctx, topic, client.Start())
	if err != nil {
		return asked{}, err
	}
	ends, err := c.Offsets(ctx, topic, client.End())
	return asked{offset, starts, ends}, err
}

// outside says in one line where there is no such offset, and what is taken instead;
// it is empty if the offset is in every log. Only these partitions count, all if none
// are given.
func (a asked) outside(topic string, partitions []int32) string {
	if len(partitions) == 0 {
		partitions = slices.Sorted(maps.Keys(a.ends))
	}
	var first string
	more := 0
	for _, p := range partitions {
		start, end := a.starts[p], a.ends[p]
		if a.offset >= start && a.offset <= end {
			continue
		}
		if first != "" {
			more++
			continue
		}
		first = fmt.Sprintf("offset %d is outside the log of topic %q partition %d (%d to %d), taking %d",
			a.offset, topic, p, start, end, min(max(a.offset, start), end))
	}
	if more > 0 {
		first += fmt.Sprintf("; so for %d more partitions", more)
	}
	return first
}

// parseTime reads a date, a time, a time span before now, or, if numbers are
// allowed, a Unix time in seconds or, with 13 digits, milliseconds.
func parseTime(text string, now time.Time, numbers bool) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	if span, ok := strings.CutPrefix(text, "-"); ok {
		if d, err := parseSpan(span); err == nil {
			return now.Add(-d), true
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && numbers && n >= 0 {
		if len(text) >= 13 {
			return time.UnixMilli(n), true
		}
		return time.Unix(n, 0), true
	}
	return time.Time{}, false
}

// parseSpan is time.ParseDuration that also knows days.
func parseSpan(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}
