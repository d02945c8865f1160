package client

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestOptionsAreChecked(t *testing.T) {
	tests := []struct {
		name      string
		addresses []string
		options   []Option
		faults    []string // all of them in one error; none: valid
	}{
		{"defaults", []string{"localhost:9092"}, nil, nil},
		{"host alone", []string{"localhost"}, nil, nil},
		{"no address", nil, nil, []string{"no broker address"}},
		{"not an address", []string{"http://localhost/"}, nil, []string{"http://localhost/"}},
		{"all at once", []string{""}, []Option{WithCompression("brotli"), WithLinger(-time.Second)},
			[]string{"broker address", "brotli", "linger -1s"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := defaultConfig()
			cfg.addresses = test.addresses
			for _, o := range test.options {
				o.apply(&cfg)
			}
			err := cfg.validate()
			if (err != nil) != (len(test.faults) > 0) {
				t.Fatalf("error is %v", err)
			}
			for _, fault := range test.faults {
				if !strings.Contains(err.Error(), fault) {
					t.Errorf("%q does not name %q", err, fault)
				}
			}
		})
	}
}

func TestSubscribeOptionsAreChecked(t *testing.T) {
	tests := []struct {
		name    string
		options []SubscribeOption
		faults  []string
	}{
		{"topics", []SubscribeOption{Topics("a")}, nil},
		{"nothing", nil, []string{"no topic"}},
		{"group with partitions", []SubscribeOption{Topics("a"), Group("g"), Partitions(1)}, []string{"Partitions cannot"}},
		{"group from an offset", []SubscribeOption{Topics("a"), Group("g"), From(At(3))}, []string{"From must be"}},
		{"group from the end", []SubscribeOption{Topics("a"), Group("g"), From(End())}, nil},
		{"commit too often", []SubscribeOption{Topics("a"), Group("g"), CommitEvery(time.Millisecond)}, []string{"CommitEvery"}},
		{"manually", []SubscribeOption{Topics("a"), Group("g"), CommitManually()}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := subscribeConfig{commitEvery: time.Second}
			for _, o := range test.options {
				o.applySubscribe(&cfg)
			}
			err := cfg.validate()
			if (err != nil) != (len(test.faults) > 0) {
				t.Fatalf("error is %v", err)
			}
			for _, fault := range test.faults {
				if !strings.Contains(err.Error(), fault) {
					t.Errorf("%q does not name %q", err, fault)
				}
			}
		})
	}
}

// TestHorizon: when a loop with Until ends, by what happens to its partitions.
func TestHorizon(t *testing.T) {
	p0, p1 := topicPartition{"t", 0}, topicPartition{"t", 1}
	ends := map[topicPartition]int64{p0: 2, p1: 1}
	given := func(partitions ...int32) map[string][]int32 { return map[string][]int32{"t": partitions} }
	read := func(p int32, offset int64) *Record { return &Record{Topic: "t", Partition: p, Offset: offset} }
	tests := []struct {
		name string
		do   func(h *horizon)
		over bool
	}{
		{"nothing assigned yet", func(*horizon) {}, false},
		{"assigned at the ends", func(h *horizon) { h.assign(map[topicPartition]int64{p0: 2, p1: 1}) }, true},
		{"one is left", func(h *horizon) { h.assign(map[topicPartition]int64{p0: 2, p1: 0}) }, false},
		{"read to the ends", func(h *horizon) {
			h.assign(map[topicPartition]int64{p0: 0, p1: 0})
			h.advance(read(0, 0))
			h.advance(read(0, 1))
			h.advance(read(1, 0))
		}, true},
		{"the unfinished one goes to another member", func(h *horizon) {
			h.expect(given(0, 1))
			h.assign(map[topicPartition]int64{p0: 2, p1: 0})
			h.revoke(given(1))
			h.expect(given())
		}, true},
		{"all are taken and come back in an eager rebalance", func(h *horizon) {
			h.expect(given(0, 1))
			h.assign(map[topicPartition]int64{p0: 0, p1: 0})
			h.revoke(given(0, 1))
			h.expect(given(0))
		}, false},
		{"never given anything", func(h *horizon) { h.expect(given()) }, false},
		{"given, positions not known yet", func(h *horizon) { h.expect(given(0)) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHorizon(ends, nil)
			test.do(h)
			select {
			case <-h.done:
				if !test.over {
					t.Error("it is over too early")
				}
			default:
				if test.over {
					t.Error("it is not over")
				}
			}
		})
	}
	h := newHorizon(ends, nil)
	if h.beyond(read(0, 1)) || !h.beyond(read(0, 2)) {
		t.Error("the end is the first offset that is not read")
	}
}

// TestResolveIsBounded: a position is within the log, however far it points.
func TestResolveIsBounded(t *testing.T) {
	tp := topicPartition{"t", 0}
	within := map[topicPartition]bounds{tp: {start: 5, end: 9}}
	for _, test := range []struct {
		position Position
		want     int64
	}{
		{AfterStart(2), 7}, {AfterStart(100), 9}, {AfterStart(math.MaxInt64), 9}, {AfterStart(-1), 5},
		{BeforeEnd(2), 7}, {BeforeEnd(100), 5}, {BeforeEnd(math.MaxInt64), 5}, {BeforeEnd(-1), 9},
		{At(math.MinInt64), 5}, {At(math.MaxInt64), 9},
	} {
		got, err := resolve(t.Context(), nil, test.position, within, nil)
		if err != nil || got[tp] != test.want {
			t.Errorf("%+v is %v, %v; want %d", test.position, got, err, test.want)
		}
	}
}
