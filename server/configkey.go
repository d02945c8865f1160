package server

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// configKey defines one configuration key, of a topic or of a broker. The tables
// of keys (topicKeys, brokerKeys) are what DescribeConfigs shows, what
// CreateTopics and -c check against, and what the reference page is made from.
type configKey struct {
	name  string
	kind  kmsg.ConfigType
	value string // the default, in Kafka's text form
	doc   string
	// oneOf lists the values of a string, or of the items of a list.
	oneOf []string
	// low and high bound a number; both zero: the type's own bounds.
	low, high int64
	// broker names the broker keys that set the default of a topic key, strongest
	// first.
	broker []synonym
	// fixed marks a key that describes how this broker runs and is set otherwise.
	fixed bool
	// shared marks a broker key that is kept in the cluster's metadata: every broker
	// knows its value for each broker, and any can alter it.
	shared bool
}

// synonym is a broker key that gives a topic key its default.
type synonym struct {
	key   string
	times int64 // multiplies a number, for other units; 0: taken as it is
}

// Numbers that stand for "no limit", as Kafka writes them.
const (
	maxLong = "9223372036854775807"
	maxInt  = "2147483647"
)

// check reports what is wrong with a value, in words for the user.
func (k *configKey) check(value string) error {
	switch k.kind {
	case kmsg.ConfigTypeBoolean:
		if value != "true" && value != "false" {
			return fmt.Errorf("%s=%q: want true or false", k.name, value)
		}
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeLong, kmsg.ConfigTypeShort:
		return k.checkNumber(value)
	case kmsg.ConfigTypeDouble:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || f < float64(k.low) || k.high > 0 && f > float64(k.high) {
			return fmt.Errorf("%s=%q: want a number from %d to %d", k.name, value, k.low, k.high)
		}
	case kmsg.ConfigTypeList:
		for _, item := range splitList(value) {
			if len(k.oneOf) > 0 && !slices.Contains(k.oneOf, item) {
				return fmt.Errorf("%s=%q: want a list of %s", k.name, value, strings.Join(k.oneOf, ", "))
			}
		}
	default:
		if len(k.oneOf) > 0 && !slices.Contains(k.oneOf, value) {
			return fmt.Errorf("%s=%q: want one of %s", k.name, value, strings.Join(k.oneOf, ", "))
		}
	}
	return nil
}

func (k *configKey) checkNumber(value string) error {
	low, high := k.bounds()
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%s=%q: want a whole number", k.name, value)
	}
	if n < low || n > high {
		return fmt.Errorf("%s=%s: want a number from %d to %d", k.name, value, low, high)
	}
	return nil
}

func (k *configKey) bounds() (low, high int64) {
	low, high = k.low, k.high
	if high != 0 {
		return low, high
	}
	switch k.kind {
	case kmsg.ConfigTypeShort:
		return low, math.MaxInt16
	case kmsg.ConfigTypeInt:
		return low, math.MaxInt32
	default:
		return low, math.MaxInt64
	}
}

// splitList splits a list value; empty text is the empty list.
func splitList(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// findKey returns the key of that name.
func findKey(keys []configKey, name string) (*configKey, bool) {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i], true
		}
	}
	return nil, false
}

// unknownKey is the error for a name that is no key, with the nearest one.
func unknownKey(keys []configKey, what, name string) error {
	best, distance := "", 1+len(name)/3
	for i := range keys {
		if d := editDistance(name, keys[i].name); d <= distance {
			best, distance = keys[i].name, d
		}
	}
	if best == "" {
		return fmt.Errorf("unknown %s configuration %q", what, name)
	}
	return fmt.Errorf("unknown %s configuration %q; did you mean %q?", what, name, best)
}

// editDistance is the Levenshtein distance of two short texts.
func editDistance(a, b string) int {
	const longest = 128 // keys are shorter; longer text is similar to none
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
