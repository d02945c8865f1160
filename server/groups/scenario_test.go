package groups

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/segment"
)

var rewrite = flag.Bool("rewrite", false, "write the scenario files anew with what they print now")

// TestScenarios plays testdata/*.txt. A file is a list of blocks: commands, a line
// of dashes, and what they print. Each line of commands is started and given time
// to come to rest; answers appear when they are there, so the answer to a join may
// be printed by a later "sleep". All time is that of the synctest bubble. The
// commands are the keys of the table in driver.run.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = play(t, string(text)) })
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(text), got); diff != "" && !*rewrite {
				t.Errorf("%s (-file +now):\n%s", file, diff)
			}
		})
	}
}

// play runs a scenario and returns the file as it should be.
func play(t *testing.T, text string) string {
	d := newDriver(t)
	defer d.close()
	var out []string
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		commands, _, runs := strings.Cut(block, "\n----")
		out = append(out, commands)
		if !runs && !strings.HasSuffix(block, "----") {
			out = append(out, "")
			continue
		}
		out = append(out, "----")
		for line := range strings.SplitSeq(commands, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				out = append(out, d.step(line)...)
			}
		}
		out = append(out, "")
	}
	return strings.TrimRight(strings.Join(out, "\n"), "\n") + "\n"
}

// driver is a coordinator, its log, and named members that send it requests.
type driver struct {
	t       *testing.T
	store   *memStore
	c       *Coordinator
	cfg     Config
	topics  map[string]Topic
	started time.Time

	mu      sync.Mutex // guards what request goroutines write
	lines   []string
	members map[string]*client
	work    sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

// client is what a member knows of itself.
type client struct {
	name       string
	id         string
	generation int32
}

func newDriver(t *testing.T) *driver {
	d := &driver{
		t: t, store: newMemStore(), started: time.Now(), members: map[string]*client{},
		topics: map[string]Topic{"t": {Created: 1, Partitions: 4}, "u": {Created: 2, Partitions: 4}},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.cfg = Config{
		Store: d.store, Partitions: func() int32 { return 1 },
		Topics: func(name string) (Topic, bool) {
			d.mu.Lock()
			defer d.mu.Unlock()
			topic, ok := d.topics[name]
			return topic, ok
		},
		Logger: slog.New(slog.DiscardHandler), MaxGroupSize: 3,
	}
	d.c = New(d.cfg)
	return d
}

func (d *driver) close() {
	d.cancel()
	d.work.Wait()
	if err := d.c.Close(); err != nil {
		d.t.Error(err)
	}
}

func (d *driver) print(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// named replaces member ids, which are random, by the names of their clients.
func (d *driver) named(line string) string {
	for _, name := range sortedKeys(d.members) {
		if id := d.members[name].id; id != "" {
			line = strings.ReplaceAll(line, id, "<"+name+">")
		}
	}
	return line
}

// step runs one command and returns what was printed until everything rests.
func (d *driver) step(line string) []string {
	words := strings.Fields(line)
	a := args{values: map[string]string{}}
	for _, w := range words[1:] {
		if key, value, ok := strings.Cut(w, "="); ok && !strings.Contains(key, "/") {
			a.values[key] = value
		} else {
			a.words = append(a.words, w)
		}
	}
	d.run(words[0], a)
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	for i, line := range lines {
		lines[i] = d.named(line)
	}
	slices.Sort(lines) // goroutines that rest at the same time come in any order
	return lines
}

// args are the words of a command and its key=value pairs.
type args struct {
	words  []string
	values map[string]string
}

func (a args) get(key, otherwise string) string {
	if v, ok := a.values[key]; ok {
		return v
	}
	return otherwise
}

func (a args) int(key string, otherwise int) int {
	n, err := strconv.Atoi(a.get(key, strconv.Itoa(otherwise)))
	if err != nil {
		panic(err)
	}
	return n
}

func (a args) millis(key, otherwise string) int32 {
	v, err := time.ParseDuration(a.get(key, otherwise))
	if err != nil {
		panic(err)
	}
	return int32(v.Milliseconds())
}

func (d *driver) run(command string, a args) {
	do, ok := map[string]func(args){
		"config": d.config, "lead": d.lead, "resign": func(args) { d.c.Resign(0) }, "store": d.storeCommand,
		"sleep": d.sleep, "topic": d.topic, "topic-deleted": d.topicDeleted, "log": d.printLog, "put": d.put,
		"join": d.join, "sync": d.sync, "heartbeat": d.heartbeat, "leave": d.leave,
		"commit": d.commit, "fetch": d.fetch, "offset-delete": d.offsetDelete,
		"describe": d.describe, "list": d.list, "delete": d.delete, "forget": d.forget,
	}[command]
	if !ok {
		d.t.Fatalf("unknown command %q", command)
	}
	do(a)
}

// config makes the coordinator anew, as a restarted process does.
func (d *driver) config(a args) {
	if err := d.c.Close(); err != nil {
		d.t.Error(err)
	}
	ms := func(key, otherwise string) time.Duration {
		return time.Duration(a.millis(key, otherwise)) * time.Millisecond
	}
	d.cfg.InitialRebalanceDelay = ms("delay", "0s")
	d.cfg.Retention = ms("retention", "0s")
	d.cfg.MaxAppendBytes = a.int("append", 0)
	d.c = New(d.cfg)
}

func (d *driver) lead(a args) {
	term := segment.Term(a.int("term", 1))
	d.store.elect(0, term)
	d.c.Lead(0, term)
}

func (d *driver) storeCommand(a args) {
	switch a.words[0] {
	case "block":
		d.store.block()
	case "unblock":
		d.store.unblock()
	case "fail":
		d.store.fail(a.words[1:]...)
	case "fail-load":
		d.store.failLoad(fmt.Errorf("read error"))
	case "appends":
		d.print("appends: %d", d.store.appends)
	}
}

func (d *driver) sleep(a args) {
	wait, err := time.ParseDuration(a.words[0])
	if err != nil {
		d.t.Fatal(err)
	}
	<-time.After(wait)
}

func (d *driver) topic(a args) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.topics[a.words[0]] = Topic{Created: uint64(a.int("created", 1)), Partitions: int32(a.int("partitions", 4))}
}

func (d *driver) topicDeleted(a args) {
	name := a.words[0]
	d.mu.Lock()
	created := d.topics[name].Created
	delete(d.topics, name)
	d.mu.Unlock()
	d.c.TopicDeleted(name, created)
}

// member is the client of a name, made when first used.
func (d *driver) member(name string) *client {
	m := d.members[name]
	if m == nil {
		m = &client{name: name, generation: -1}
		d.members[name] = m
	}
	return m
}

// forget lets a member start anew, as a restarted process does.
func (d *driver) forget(a args) {
	for _, name := range a.words {
		d.members[name+"-old"] = &client{name: name + "-old", id: d.members[name].id, generation: d.members[name].generation}
		delete(d.members, name)
	}
}

// put writes a raw record into the log, beside the coordinator.
func (d *driver) put(a args) {
	r := segment.Record{Key: groupKey(a.get("group", "g")), Value: []byte(a.get("value", ""))}
	if target, ok := a.values["position"]; ok {
		r.Key = offsetKey(a.get("group", "g"), parseTarget(target))
	}
	if key, ok := a.values["key"]; ok {
		r.Key = []byte(key)
	}
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	d.store.log[0] = append(d.store.log[0], r)
}

// printLog shows the log as text.
func (d *driver) printLog(args) {
	for i, r := range d.store.log[0] {
		d.print("%02d %s", i, recordText(r))
	}
}

func recordText(r segment.Record) string {
	key, err := decodeKey(r.Key)
	if err != nil {
		return err.Error()
	}
	if key.version == groupKeyV2 {
		if r.Value == nil {
			return fmt.Sprintf("group %s: tombstone", key.group)
		}
		v, err := decodeGroup(r.Value)
		if err != nil {
			return fmt.Sprintf("group %s: %v", key.group, err)
		}
		text := fmt.Sprintf("group %s: generation=%d type=%s protocol=%s leader=%s", key.group, v.Generation, v.ProtocolType, or(v.Protocol), or(v.Leader))
		for _, m := range v.Members {
			text += fmt.Sprintf(" [%s instance=%s assignment=%s]", m.MemberID, or(m.InstanceID), m.Assignment)
		}
		return text
	}
	text := fmt.Sprintf("position %s %s/%d: ", key.group, key.target.topic, key.target.partition)
	if r.Value == nil {
		return text + "tombstone"
	}
	p, err := decodePosition(r)
	if err != nil {
		return text + err.Error()
	}
	return fmt.Sprintf("%s%d epoch=%d metadata=%q created=%d", text, p.offset, p.epoch, p.metadata, p.created)
}

func or(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func parseTarget(s string) topicPartition {
	topic, partition, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(partition)
	if err != nil {
		panic(fmt.Sprintf("position %q: %v", s, err))
	}
	return topicPartition{topic, int32(n)}
}

// codeName is a Kafka code as the scenarios print it.
func codeName(code int16) string {
	if code == 0 {
		return "ok"
	}
	return kerr.TypedErrorForCode(code).Message
}

// sortedKeys is for printing maps.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
