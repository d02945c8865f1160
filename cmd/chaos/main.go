//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// scenarioLimit bounds one scenario with everything that belongs to it.
	scenarioLimit = 4 * time.Minute
	// exitInterrupted is the exit code after Ctrl-C.
	exitInterrupted = 130
)

// options are the flags.
type options struct {
	binary string
	only   string
	list   bool
	keep   bool
	seed   int64
}

func main() {
	var o options
	flag.StringVar(&o.binary, "millrace", "bin/millrace", "the millrace `executable`")
	flag.StringVar(&o.only, "only", "", "play these scenarios, by `numbers` such as C1,N3")
	flag.BoolVar(&o.list, "list", false, "list the scenarios, those left out too, and end")
	flag.BoolVar(&o.keep, "keep", false, "keep the brokers' data and logs of scenarios that did not fail, too")
	flag.Int64Var(&o.seed, "seed", 0, "what chance does; 0 draws one")
	flag.Parse()
	if o.list {
		list(os.Stdout)
		return
	}
	if o.seed == 0 {
		o.seed = time.Now().UnixNano() % 1_000_000
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	line, err := run(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Printf("chaos: FAILED seed=%d interrupted\n", o.seed)
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Printf("chaos: FAILED seed=%d %v\n", o.seed, err)
		os.Exit(1)
	}
	fmt.Println(line)
}

// run plays the chosen scenarios one after the other, also behind one that fails.
func run(ctx context.Context, o options) (string, error) {
	chosen, err := choose(o.only)
	if err != nil {
		return "", err
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return "", fmt.Errorf("executable: %w", err)
	}
	if _, err := os.Stat(o.binary); err != nil {
		return "", fmt.Errorf("executable: %w (make build makes it)", err)
	}
	if err := checkTools(); err != nil {
		return "", err
	}
	fmt.Printf("chaos: seed %d; %d scenarios\n", o.seed, len(chosen))
	began := time.Now()
	var results []result
	for _, sc := range chosen {
		if ctx.Err() != nil {
			break
		}
		r := playOne(ctx, o, sc)
		results = append(results, r)
		r.print(os.Stdout)
	}
	if o.only == "" {
		printLeftOut(os.Stdout)
	}
	return judge(o, results, len(chosen), time.Since(began))
}

// judge makes the last line.
func judge(o options, results []result, chosen int, took time.Duration) (string, error) {
	var failed []string
	acknowledged := int64(0)
	for _, r := range results {
		acknowledged += r.counts.Acknowledged
		if r.err != nil {
			failed = append(failed, r.scenario.number)
		}
	}
	switch {
	case len(failed) > 0:
		return "", fmt.Errorf("%d of %d scenarios: %s", len(failed), len(results), strings.Join(failed, ", "))
	case len(results) < chosen:
		return "", fmt.Errorf("only %d of %d scenarios were played", len(results), chosen)
	}
	return fmt.Sprintf("chaos: ok seed=%d scenarios=%d seconds=%d acknowledged=%d lost=0 duplicated=0 conflicting=0",
		o.seed, len(results), int(took.Seconds()), acknowledged), nil
}

// choose finds scenarios by their numbers; all of them if none is named.
func choose(only string) ([]scenario, error) {
	if only == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for number := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return strings.EqualFold(s.number, strings.TrimSpace(number)) })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q here; -list names them", number)
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

// playOne plays a scenario and never leaves anything of it running.
func playOne(ctx context.Context, o options, sc scenario) (r result) {
	r = result{scenario: sc, began: time.Now()}
	limited, cancel := context.WithTimeoutCause(ctx, scenarioLimit, fmt.Errorf("not done after %s", scenarioLimit))
	defer cancel()
	s, err := newStage(limited, o, sc)
	if err != nil {
		r.err = fmt.Errorf("set up: %w", err)
		return r
	}
	defer func() {
		r.took, r.figures, r.counts = time.Since(r.began), s.figures, s.ledger.Counts()
		if r.err != nil && limited.Err() != nil {
			r.err = errors.Join(context.Cause(limited), r.err)
		}
		r.err = errors.Join(r.err, s.close((o.keep || r.err != nil) && ctx.Err() == nil))
	}()
	r.err = s.whole(limited)
	return r
}
