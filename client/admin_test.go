package client_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/client"
)

func TestTopicsFromBirthToDeath(t *testing.T) {
	admin := open(t).Admin()
	ctx := limited(t)
	name := topicName(t)
	spec := client.TopicSpec{Name: name, Partitions: 3, Replicas: 1, Configs: map[string]string{"retention.ms": "1000000"}}
	if err := admin.Create(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := admin.Create(ctx, spec); !errors.Is(err, client.ErrTopicExists) {
		t.Errorf("creating it again: %v", err)
	}
	topic, err := admin.Describe(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if len(topic.Partitions) != 3 || topic.Replicas() != 1 || topic.Internal || len(topic.ID) != 22 {
		t.Errorf("described as %+v", topic)
	}
	for i, p := range topic.Partitions {
		if p.ID != int32(i) || !slices.Equal(p.Replicas, []int32{1}) {
			t.Errorf("partition %d is %+v", i, p)
		}
	}
	configs, err := admin.Configs(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if configs["retention.ms"] != "1000000" || configs["max.message.bytes"] == "" {
		t.Errorf("configurations are %v", configs)
	}
	listed, err := admin.List(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(listed, func(t client.Topic) bool { return t.Name == name && t.ID == topic.ID }) {
		t.Errorf("%s is not listed", name)
	}
	if err := admin.Delete(ctx, name, "nowhere"); !errors.Is(err, client.ErrUnknownTopic) {
		t.Errorf("deleting one that is not there, too: %v", err)
	}
	if _, err := admin.Describe(ctx, name); !errors.Is(err, client.ErrUnknownTopic) {
		t.Errorf("describing it after that: %v", err)
	}
}

func TestEnsure(t *testing.T) {
	admin := open(t).Admin()
	ctx := limited(t)
	spec := client.TopicSpec{Name: topicName(t), Partitions: 2, Replicas: 1, Configs: map[string]string{"retention.ms": "1000"}}
	created, differences, err := admin.Ensure(ctx, spec)
	if err != nil || !created || differences != nil {
		t.Fatalf("first: %v %v %v", created, differences, err)
	}
	created, differences, err = admin.Ensure(ctx, spec)
	if err != nil || created || differences != nil {
		t.Fatalf("again: %v %v %v", created, differences, err)
	}
	spec.Partitions, spec.Replicas, spec.Configs["retention.ms"] = 5, 0, "2000"
	created, differences, err = admin.Ensure(ctx, spec)
	if err != nil || created {
		t.Fatalf("another: %v %v", created, err)
	}
	want := []client.Difference{{What: "partitions", Want: "5", Have: "2"}, {What: "retention.ms", Want: "2000", Have: "1000"}}
	if diff := cmp.Diff(want, differences); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestTopicsThatCannotBe(t *testing.T) {
	admin := open(t).Admin()
	tests := []client.TopicSpec{
		{Name: "a/b"},
		{Name: ".."},
		{Name: string(make([]byte, 300))},
		{Name: "too-many-replicas", Replicas: 5},
		{Name: "no-such-config", Configs: map[string]string{"retention.mss": "1"}},
		{Name: "no-such-value", Configs: map[string]string{"retention.ms": "soon"}},
	}
	for _, spec := range tests {
		if err := admin.Create(limited(t), spec); !errors.Is(err, client.ErrInvalidTopic) {
			t.Errorf("%.20q: %v", spec.Name, err)
		}
	}
}
