package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/client"
)

// progress prints a line a second, and who reads what whenever that changes.
func (d *demo) progress(ctx context.Context, l *load, ms *members) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	shown, before := ms.partitions(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := ms.partitions(); now != shown {
			shown = now
			fmt.Fprintf(d.out, "  %s\n", now)
		}
		acknowledged, consumed := d.checker.Counts()
		bytes := l.bytes.Load()
		fmt.Fprintf(d.out, "%4.0fs  %3d%%  acknowledged %d  consumed %d  %.0f MB/s\n", time.Since(d.started).Seconds(),
			100*acknowledged/d.count, acknowledged, consumed, megabytes(bytes-before))
		before = bytes
	}
}

// report prints the table and gives the last line; an error if anything is wrong.
func (d *demo) report(ctx context.Context, c *client.Client, l *load, v *victim, readers string) (string, error) {
	r := d.checker.Report()
	configs, err := c.Admin().Configs(ctx, topic)
	if err != nil {
		return "", err
	}
	durability := configs["millrace.durability"]
	if durability == "" {
		durability = "not told"
	}
	rate := megabytes(l.bytes.Load()) / l.ended.Sub(l.began).Seconds()
	gap := d.gaps.Longest().Milliseconds()
	rows := [][2]string{
		{"acknowledged", fmt.Sprintf("%d (%d before the kill, %d after)", r.Acknowledged, v.before, int64(r.Acknowledged)-v.before)},
		{"consumed", fmt.Sprintf("%d by %s", r.Consumed, readers)},
		{"lost", fmt.Sprint(r.Lost)},
		{"duplicated", fmt.Sprint(r.Duplicated)},
		{"out of order within a key", fmt.Sprint(r.OutOfOrder)},
		{"redelivered by the group", fmt.Sprint(r.Redelivered)},
		{"longest write gap", fmt.Sprintf("%d ms", gap)},
		{"rate", fmt.Sprintf("%.0f MB/s", rate)},
		{"bytes produced", fmt.Sprintf("%.1f MB", megabytes(l.bytes.Load()))},
		{"bytes on disk a replica", d.disk()},
		{"durability", durability},
	}
	fmt.Fprintln(d.out)
	for _, row := range rows {
		fmt.Fprintf(d.out, "  %-26s %s\n", row[0], row[1])
	}
	fmt.Fprintln(d.out)
	counts := fmt.Sprintf("acked=%d consumed=%d lost=%d duplicated=%d out_of_order=%d gap_ms=%d rate_mb_s=%.0f",
		r.Acknowledged, r.Consumed, r.Lost, r.Duplicated, r.OutOfOrder, gap, rate)
	if !r.OK() || r.Acknowledged != d.count {
		for _, example := range r.Examples {
			fmt.Fprintln(d.out, "  "+example)
		}
		return "", errors.New(counts)
	}
	return "demo: ok " + counts, nil
}

// disk is what the topic's log files hold on each node.
func (d *demo) disk() string {
	var sizes []string
	for n := 1; n <= d.cluster.Nodes(); n++ {
		var sum int64
		filepath.WalkDir(filepath.Join(d.cluster.DataDir(n), "topics", topic), func(_ string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return nil // a file may go while we look
			}
			if info, err := entry.Info(); err == nil {
				sum += info.Size()
			}
			return nil
		})
		sizes = append(sizes, fmt.Sprintf("%.1f MB", megabytes(sum)))
	}
	return strings.Join(sizes, ", ")
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
