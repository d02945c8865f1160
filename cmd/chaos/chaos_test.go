//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cmd/internal/durability"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScenariosAreWhole: every line has a number of the catalogue's form, once, a
// title, and something to play; nothing is both played and left out.
func TestScenariosAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, sc := range scenarios {
		if !regexp.MustCompile(`^[CDNTMK][0-9]+$`).MatchString(sc.number) || sc.title == "" || sc.play == nil {
			t.Errorf("scenario %+v", sc)
		}
		if seen[sc.number] || sc.count() > maxBrokers {
			t.Errorf("%s is there twice, or has too many brokers", sc.number)
		}
		seen[sc.number] = true
	}
	for _, l := range leftOut {
		for number := range strings.FieldsSeq(l.numbers) {
			if seen[number] && l.numbers == number {
				t.Errorf("%s is played and left out", number)
			}
		}
		if l.why == "" {
			t.Errorf("%s is left out for no reason", l.numbers)
		}
	}
}

// TestCatalogueIsCovered: every crash, network, clock and membership line of the
// catalogue is played, or left out with a reason.
func TestCatalogueIsCovered(t *testing.T) {
	mentioned := map[string]bool{}
	for _, sc := range scenarios {
		mentioned[sc.number] = true
	}
	for _, l := range leftOut {
		for _, number := range numbersOf(l.numbers) {
			mentioned[number] = true
		}
	}
	for prefix, count := range map[string]int{"C": 11, "D": 23, "N": 11, "T": 5, "M": 12} {
		for i := 1; i <= count; i++ {
			if number := prefix + strconv.Itoa(i); !mentioned[number] {
				t.Errorf("%s is neither played nor left out", number)
			}
		}
	}
}

// numbersOf spells out a list such as "D1 D5-D7".
func numbersOf(text string) (numbers []string) {
	for field := range strings.FieldsSeq(text) {
		m := regexp.MustCompile(`^([A-Z])([0-9]+)(?:-[A-Z]([0-9]+))?$`).FindStringSubmatch(field)
		if m == nil {
			continue
		}
		from, to := atoi(m[2]), atoi(m[2])
		if m[3] != "" {
			to = atoi(m[3])
		}
		for i := from; i <= to; i++ {
			numbers = append(numbers, m[1]+strconv.Itoa(i))
		}
	}
	return numbers
}

func TestChoose(t *testing.T) {
	if all, err := choose(""); err != nil || len(all) != len(scenarios) {
		t.Errorf("all: %d, %v", len(all), err)
	}
	if some, err := choose("n1, C2"); err != nil || len(some) != 2 || some[0].number != "N1" || some[1].number != "C2" {
		t.Errorf("two: %v, %v", some, err)
	}
	if _, err := choose("C2,X1"); err == nil || !strings.Contains(err.Error(), `no scenario "X1"`) {
		t.Errorf("an unknown one: %v", err)
	}
}

// TestJudge: a failed scenario, and one that was not played, fail the round.
func TestJudge(t *testing.T) {
	good := result{scenario: scenarios[0], counts: durability.Counts{Acknowledged: 5}}
	bad := result{scenario: scenarios[1], err: io.ErrUnexpectedEOF}
	if line, err := judge(options{seed: 7}, []result{good, good}, 2, time.Second); err != nil ||
		line != "chaos: ok seed=7 scenarios=2 seconds=1 acknowledged=10 lost=0 duplicated=0 conflicting=0" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := judge(options{}, []result{good, bad}, 2, 0); err == nil || !strings.Contains(err.Error(), scenarios[1].number) {
		t.Errorf("a failed one: %v", err)
	}
	if _, err := judge(options{}, []result{good}, 2, 0); err == nil {
		t.Error("one that was not played is no failure")
	}
}

func TestFigures(t *testing.T) {
	s := &stage{}
	for _, ms := range []int{30, 10, 20} {
		s.note("gap", time.Duration(ms)*time.Millisecond)
	}
	s.note("once", time.Second)
	s.tell("elections", "%d", 3)
	var b bytes.Buffer
	result{scenario: scenarios[0], figures: s.figures}.print(&b)
	for _, want := range []string{"20 ms median,     30 ms longest of 3", "1000 ms", "elections"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q lacks %q", b.String(), want)
		}
	}
}

// TestRules: what a namespace drops.
func TestRules(t *testing.T) {
	w := &world{net: "10.213.1", losses: map[link]int{{from: 1, to: 2}: 100, {from: 3, to: 1}: 5}}
	if got := w.rulesLocked(2); !strings.Contains(got, "ip saddr 10.213.1.1 drop") || strings.Contains(got, "10.213.1.3") {
		t.Errorf("of broker 2: %s", got)
	}
	if got := w.rulesLocked(1); !strings.Contains(got, "ip saddr 10.213.1.3 numgen random mod 100 < 5 drop") {
		t.Errorf("of broker 1: %s", got)
	}
	if got := w.rulesLocked(3); strings.Contains(got, "saddr") {
		t.Errorf("of broker 3: %s", got)
	}
}

// echo answers every connection with what it sends, until the test ends.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// through sends bytes through a proxy and returns what comes back.
func through(t *testing.T, p *proxy, sent []byte) []byte {
	c, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestProxy: bytes arrive in order and whole, late by the delay of both directions,
// and damaged where they are to be.
func TestProxy(t *testing.T) {
	p, err := newProxy("127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	if !bytes.Equal(through(t, p, sent), sent) {
		t.Error("bytes are damaged in good weather")
	}
	p.set(weather{delay: 30 * time.Millisecond, jitter: 10 * time.Millisecond, loss: 10})
	began := time.Now()
	if !bytes.Equal(through(t, p, sent), sent) {
		t.Error("bytes are damaged by a delay")
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("there and back took %s", took)
	}
	p.set(weather{flips: 1_000_000})
	if bytes.Equal(through(t, p, sent), sent) || p.flipped.Load() == 0 {
		t.Error("no bit was flipped")
	}
}

// TestProxyResets: a target that refuses looks as dead as it is.
func TestProxyResets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	p, err := newProxy("127.0.0.1:0", dead)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	c, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		return // reset before it was told to us
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection stays: %v", err)
	}
}

// TestSetUpFails: what is missing is named, and nothing stays.
func TestSetUpFails(t *testing.T) {
	_, err := run(context.Background(), options{binary: t.TempDir() + "/none"})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without an executable: %v", err)
	}
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
