package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Admin creates, lists, describes and deletes topics. It uses the connections of
// its client and needs no closing.
type Admin struct {
	client *Client
	kadm   *kadm.Client
}

// TopicSpec is a topic as it should be.
type TopicSpec struct {
	// Name has 1 to 249 letters, digits, '.', '_' or '-'.
	Name string
	// Partitions is how many the topic has; 0: the broker's num.partitions.
	Partitions int
	// Replicas is how many copies each has; 0: the broker's
	// default.replication.factor.
	Replicas int
	// Configs are topic configurations such as retention.ms.
	Configs map[string]string
}

// Topic is a topic as it is.
type Topic struct {
	// Name is its name.
	Name string
	// ID is its identity in Kafka's text form; a topic that is deleted and
	// created again has another one.
	ID string
	// Internal is true for the cluster's own topics.
	Internal bool
	// Partitions are sorted by number.
	Partitions []Partition
}

// Replicas is the number of copies of the partition that has the most.
func (t Topic) Replicas() int {
	most := 0
	for _, p := range t.Partitions {
		most = max(most, len(p.Replicas))
	}
	return most
}

// Partition is a partition as it is.
type Partition struct {
	// ID is its number, counted from 0.
	ID int32
	// Leader is the node that serves it, -1 if there is none now.
	Leader int32
	// LeaderEpoch counts the changes of the leader; it is the Raft term.
	LeaderEpoch int32
	// Replicas are the nodes that hold it; the first is the preferred leader.
	Replicas []int32
	// ISR are the replicas that have everything acknowledged.
	ISR []int32
}

// Difference is something in which a topic is not as its TopicSpec says.
type Difference struct {
	// What is "partitions", "replicas" or the name of a configuration.
	What string
	// Want is the value in the TopicSpec.
	Want string
	// Have is the topic's value.
	Have string
}

// Kadm is franz-go's admin client, for what this package leaves out.
func (a *Admin) Kadm() *kadm.Client { return a.kadm }

// Create makes a topic. One that exists already is an error that matches
// [ErrTopicExists].
func (a *Admin) Create(ctx context.Context, spec TopicSpec) error {
	if a.client.isClosed() {
		return fmt.Errorf("create topic: %w", ErrClosed)
	}
	partitions, replicas := int32(spec.Partitions), int16(spec.Replicas)
	if spec.Partitions == 0 {
		partitions = -1
	}
	if spec.Replicas == 0 {
		replicas = -1
	}
	configs := make(map[string]*string, len(spec.Configs))
	for key, value := range spec.Configs {
		configs[key] = &value
	}
	answer, err := a.kadm.CreateTopics(ctx, partitions, replicas, configs, spec.Name)
	if err != nil {
		return fmt.Errorf("create topic: %w", convert(err, spec.Name, -1))
	}
	created, ok := answer[spec.Name]
	if !ok {
		return fmt.Errorf("create topic %q: the broker's answer does not name it", spec.Name)
	}
	if created.Err != nil {
		return fmt.Errorf("create topic: %w", withMessage(created.Err, created.ErrMessage, spec.Name))
	}
	return nil
}

// Ensure makes a topic if there is none of that name, and otherwise tells in
// what it differs from spec; it never changes a topic. Values that spec leaves
// out are not compared.
func (a *Admin) Ensure(ctx context.Context, spec TopicSpec) (created bool, differences []Difference, err error) {
	err = a.Create(ctx, spec)
	if err == nil {
		return true, nil, nil
	}
	if !errors.Is(err, ErrTopicExists) {
		return false, nil, err
	}
	topic, err := a.Describe(ctx, spec.Name)
	if err != nil {
		return false, nil, err
	}
	if spec.Partitions != 0 && spec.Partitions != len(topic.Partitions) {
		differences = append(differences, Difference{"partitions", fmt.Sprint(spec.Partitions), fmt.Sprint(len(topic.Partitions))})
	}
	if spec.Replicas != 0 && spec.Replicas != topic.Replicas() {
		differences = append(differences, Difference{"replicas", fmt.Sprint(spec.Replicas), fmt.Sprint(topic.Replicas())})
	}
	if len(spec.Configs) == 0 {
		return false, differences, nil
	}
	have, err := a.Configs(ctx, spec.Name)
	if err != nil {
		return false, nil, err
	}
	for key, want := range spec.Configs {
		if have[key] != want && !surpassed(key, want, have[key]) {
			differences = append(differences, Difference{key, want, have[key]})
		}
	}
	slices.SortFunc(differences, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	return false, differences, nil
}

// surpassed reports a min.insync.replicas that was asked for and is below the one in
// force: a majority of the replicas, which the broker never goes below. The topic is
// as was asked, and more.
func surpassed(key, want, inForce string) bool {
	if key != "min.insync.replicas" {
		return false
	}
	asked, err := strconv.Atoi(want)
	has, hasErr := strconv.Atoi(inForce)
	return err == nil && hasErr == nil && asked < has
}

// List gives all topics, sorted by name; the cluster's own only if asked for.
func (a *Admin) List(ctx context.Context, internal bool) ([]Topic, error) {
	if a.client.isClosed() {
		return nil, fmt.Errorf("list topics: %w", ErrClosed)
	}
	list := a.kadm.ListTopics
	if internal {
		list = a.kadm.ListTopicsWithInternal
	}
	details, err := list(fresh(ctx))
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", convert(err, "", -1))
	}
	topics := make([]Topic, 0, len(details))
	for _, d := range details.Sorted() {
		if d.Err == nil {
			topics = append(topics, toTopic(d))
		}
	}
	return topics, nil
}

// Describe gives one topic; if there is none the error matches [ErrUnknownTopic]. It
// asks again while the answer may pass: a broker may hear a moment later of a topic
// that another one has just made.
func (a *Admin) Describe(ctx context.Context, name string) (Topic, error) {
	if a.client.isClosed() {
		return Topic{}, fmt.Errorf("describe topic: %w", ErrClosed)
	}
	return retry(ctx, func(ctx context.Context) (Topic, error) { return a.describe(ctx, name) })
}

// describe asks once.
func (a *Admin) describe(ctx context.Context, name string) (Topic, error) {
	details, err := a.kadm.ListTopicsWithInternal(fresh(ctx), name)
	if err != nil {
		return Topic{}, fmt.Errorf("describe topic: %w", convert(err, name, -1))
	}
	d, ok := details[name]
	if !ok {
		return Topic{}, fmt.Errorf("describe topic %q: the broker's answer does not name it", name)
	}
	if d.Err != nil {
		return Topic{}, fmt.Errorf("describe topic: %w", convert(d.Err, name, -1))
	}
	return toTopic(d), nil
}

// Configs gives the configurations in force for a topic. Secret ones have no
// value. It asks again as Describe does.
func (a *Admin) Configs(ctx context.Context, name string) (map[string]string, error) {
	if a.client.isClosed() {
		return nil, fmt.Errorf("describe configurations: %w", ErrClosed)
	}
	return retry(ctx, func(ctx context.Context) (map[string]string, error) { return a.configs(ctx, name) })
}

// configs asks once.
func (a *Admin) configs(ctx context.Context, name string) (map[string]string, error) {
	answer, err := a.kadm.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("describe configurations: %w", convert(err, name, -1))
	}
	configs := map[string]string{}
	for _, resource := range answer {
		if resource.Err != nil {
			return nil, fmt.Errorf("describe configurations: %w", withMessage(resource.Err, resource.ErrMessage, name))
		}
		for _, c := range resource.Configs {
			configs[c.Key] = c.MaybeValue()
		}
	}
	return configs, nil
}

// Delete removes topics with all their records. The error, if any, joins those
// of all topics that were not deleted.
func (a *Admin) Delete(ctx context.Context, names ...string) error {
	if a.client.isClosed() {
		return fmt.Errorf("delete topic: %w", ErrClosed)
	}
	answer, err := a.kadm.DeleteTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("delete topic: %w", convert(err, "", -1))
	}
	var faults []error
	for _, deleted := range answer.Sorted() {
		if deleted.Err != nil {
			faults = append(faults, fmt.Errorf("delete topic: %w", withMessage(deleted.Err, deleted.ErrMessage, deleted.Topic)))
		}
	}
	return errors.Join(faults...)
}

// fresh makes kadm ask for metadata: without authorized operations it may answer
// from what the client has known for up to five seconds, and show a topic that
// was just deleted, or a leader that is dead.
func fresh(ctx context.Context) context.Context { return kadm.WithAuthorizedOps(ctx) }

func toTopic(d kadm.TopicDetail) Topic {
	t := Topic{Name: d.Topic, ID: base64.RawURLEncoding.EncodeToString(d.ID[:]), Internal: d.IsInternal}
	for _, p := range d.Partitions.Sorted() {
		t.Partitions = append(t.Partitions, Partition{
			ID: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR,
		})
	}
	return t
}
