package groups

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// send starts a request and prints what show makes of its answer. The request and
// the answer pass through their wire form, as on a connection.
func send[R kmsg.Response](d *driver, request kmsg.Request, version int, show func(R) string) {
	request.SetVersion(int16(version))
	wire := request.AppendTo(nil)
	parsed := kmsg.RequestForKey(request.Key())
	parsed.SetVersion(int16(version))
	if err := parsed.ReadFrom(wire); err != nil {
		d.t.Fatalf("%T: %v", request, err)
	}
	d.work.Go(func() {
		answer := d.c.Handle(d.ctx, parsed, ClientInfo{ID: "app", Host: "/10.0.0.1"})
		clear(wire) // the connection's buffer is used again
		got := request.ResponseKind()
		if err := got.ReadFrom(answer.AppendTo(nil)); err != nil {
			d.t.Errorf("%T: %v", answer, err)
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.print("%s", show(got.(R)))
	})
}

// metadata is a consumer's subscription.
func subscribe(topics ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 1}, uint32(len(topics)))
	for _, topic := range topics {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	}
	return append(b, 0xff, 0xff, 0xff, 0xff)
}

// join NAME [protocols=range(t+u),sticky(t)] [instance=I] [version=9] ...
func (d *driver) join(a args) {
	m := d.member(a.words[0])
	r := kmsg.NewPtrJoinGroupRequest()
	r.Group, r.MemberID = a.get("group", "g"), a.get("id", m.id)
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = a.millis("session", "10s"), a.millis("rebalance", "30s")
	r.ProtocolType = a.get("type", "consumer")
	if instance, ok := a.values["instance"]; ok {
		r.InstanceID = &instance
	}
	for p := range strings.SplitSeq(a.get("protocols", "range(t)"), ",") {
		name, topics, _ := strings.Cut(strings.TrimSuffix(p, ")"), "(")
		r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: subscribe(strings.Split(topics, "+")...)})
	}
	if a.get("protocols", "?") == "none" {
		r.Protocols = nil
	}
	send(d, r, a.int("version", 9), func(resp *kmsg.JoinGroupResponse) string {
		text := m.name + ": join " + codeName(resp.ErrorCode)
		if resp.ErrorCode == codeMemberIDRequired || resp.ErrorCode == codeNone {
			m.id, m.generation = resp.MemberID, resp.Generation
		}
		if resp.ErrorCode != codeNone {
			return text
		}
		text += fmt.Sprintf(" generation=%d protocol=%s leader=%s", resp.Generation, or(resp.Protocol), resp.LeaderID)
		if resp.SkipAssignment {
			text += " skip-assignment"
		}
		for _, other := range resp.Members {
			text += " [" + other.MemberID + "]"
		}
		return text
	})
}

// sync NAME [assign=NAME:TEXT,...] [gen=N] [protocol=P]
func (d *driver) sync(a args) {
	m := d.member(a.words[0])
	r := kmsg.NewPtrSyncGroupRequest()
	r.Group, r.MemberID, r.Generation = a.get("group", "g"), m.id, int32(a.int("gen", int(m.generation)))
	if v, ok := a.values["protocol"]; ok {
		r.Protocol = &v
	}
	if v, ok := a.values["instance"]; ok {
		r.InstanceID = &v
	}
	for one := range strings.SplitSeq(a.get("assign", ""), ",") {
		if name, text, ok := strings.Cut(one, ":"); ok {
			r.GroupAssignment = append(r.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{
				MemberID: d.member(name).id, MemberAssignment: []byte(text),
			})
		}
	}
	send(d, r, a.int("version", 5), func(resp *kmsg.SyncGroupResponse) string {
		if resp.ErrorCode != codeNone {
			return m.name + ": sync " + codeName(resp.ErrorCode)
		}
		return fmt.Sprintf("%s: sync ok protocol=%s assignment=%s", m.name, or(resp.Protocol), resp.MemberAssignment)
	})
}

func (d *driver) heartbeat(a args) {
	for _, name := range a.words {
		m := d.member(name)
		r := kmsg.NewPtrHeartbeatRequest()
		r.Group, r.MemberID, r.Generation = a.get("group", "g"), m.id, int32(a.int("gen", int(m.generation)))
		if v, ok := a.values["instance"]; ok {
			r.InstanceID = &v
		}
		send(d, r, a.int("version", 4), func(resp *kmsg.HeartbeatResponse) string {
			return m.name + ": heartbeat " + codeName(resp.ErrorCode)
		})
	}
}

// leave NAME... [instance=I]
func (d *driver) leave(a args) {
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Group = a.get("group", "g")
	for _, name := range a.words {
		r.MemberID = d.member(name).id
		r.Members = append(r.Members, kmsg.LeaveGroupRequestMember{MemberID: r.MemberID})
	}
	if v, ok := a.values["instance"]; ok {
		r.Members = append(r.Members, kmsg.LeaveGroupRequestMember{InstanceID: &v})
	}
	send(d, r, a.int("version", 5), func(resp *kmsg.LeaveGroupResponse) string {
		text := "leave " + codeName(resp.ErrorCode)
		for _, m := range resp.Members {
			text += fmt.Sprintf(" [%s%s %s]", m.MemberID, or(m.InstanceID), codeName(m.ErrorCode))
		}
		return text
	})
}

// commit NAME|- t/0=5 ... [gen=N] [metadata=TEXT]
func (d *driver) commit(a args) {
	m := &client{name: "-", generation: -1}
	if a.words[0] != "-" {
		m = d.member(a.words[0])
	}
	r := kmsg.NewPtrOffsetCommitRequest()
	r.Group, r.MemberID, r.Generation = a.get("group", "g"), m.id, int32(a.int("gen", int(m.generation)))
	if v, ok := a.values["instance"]; ok {
		r.InstanceID = &v
	}
	for _, word := range a.words[1:] {
		name, offset, _ := strings.Cut(word, "=")
		target := parseTarget(name)
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.LeaderEpoch = target.partition, 7
		if _, err := fmt.Sscan(offset, &p.Offset); err != nil {
			d.t.Fatal(err)
		}
		if v, ok := a.values["metadata"]; ok {
			p.Metadata = &v
		}
		r.Topics = append(r.Topics, kmsg.OffsetCommitRequestTopic{Topic: target.topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}})
	}
	send(d, r, a.int("version", 9), func(resp *kmsg.OffsetCommitResponse) string {
		text := m.name + ": commit"
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				text += fmt.Sprintf(" %s/%d=%s", topic.Topic, p.Partition, codeName(p.ErrorCode))
			}
		}
		return text
	})
}

// fetch [t/0 ...] [stable=1] [version=9]: all positions without names
func (d *driver) fetch(a args) {
	r := kmsg.NewPtrOffsetFetchRequest()
	r.RequireStable = a.get("stable", "") != ""
	r.Group = a.get("group", "g")
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = r.Group
	for _, word := range a.words {
		target := parseTarget(word)
		r.Topics = append(r.Topics, kmsg.OffsetFetchRequestTopic{Topic: target.topic, Partitions: []int32{target.partition}})
		group.Topics = append(group.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: target.topic, Partitions: []int32{target.partition}})
	}
	r.Groups = append(r.Groups, group)
	send(d, r, a.int("version", 9), func(resp *kmsg.OffsetFetchResponse) string {
		if resp.Version >= 8 {
			resp.ErrorCode = resp.Groups[0].ErrorCode
		}
		text := "fetch " + codeName(resp.ErrorCode)
		one := func(topic string, partition int32, offset int64, epoch int32, metadata *string, code int16) {
			text += fmt.Sprintf(" %s/%d=", topic, partition)
			if code != codeNone {
				text += codeName(code)
				return
			}
			text += fmt.Sprint(offset)
			if or(metadata) != "" {
				text += fmt.Sprintf("(%s)", *metadata)
			}
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				one(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode)
			}
		}
		for _, g := range resp.Groups {
			for _, t := range g.Topics {
				for _, p := range t.Partitions {
					one(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode)
				}
			}
		}
		return text
	})
}

func (d *driver) offsetDelete(a args) {
	r := kmsg.NewPtrOffsetDeleteRequest()
	r.Group = a.get("group", "g")
	for _, word := range a.words {
		target := parseTarget(word)
		r.Topics = append(r.Topics, kmsg.OffsetDeleteRequestTopic{
			Topic: target.topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: target.partition}},
		})
	}
	send(d, r, 0, func(resp *kmsg.OffsetDeleteResponse) string {
		text := "offset-delete " + codeName(resp.ErrorCode)
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				text += fmt.Sprintf(" %s/%d=%s", t.Topic, p.Partition, codeName(p.ErrorCode))
			}
		}
		return text
	})
}

func (d *driver) describe(a args) {
	r := kmsg.NewPtrDescribeGroupsRequest()
	r.Groups = []string{a.get("group", "g")}
	send(d, r, a.int("version", 6), func(resp *kmsg.DescribeGroupsResponse) string {
		g := resp.Groups[0]
		text := fmt.Sprintf("describe %s: %s state=%s type=%s protocol=%s", g.Group, codeName(g.ErrorCode), g.State, g.ProtocolType, g.Protocol)
		for _, m := range g.Members {
			text += fmt.Sprintf(" [%s instance=%s client=%s host=%s assignment=%s]", m.MemberID, or(m.InstanceID), m.ClientID, m.ClientHost, m.MemberAssignment)
		}
		return text
	})
}

// list [states=A,B] [types=T]
func (d *driver) list(a args) {
	r := kmsg.NewPtrListGroupsRequest()
	if v, ok := a.values["states"]; ok {
		r.StatesFilter = strings.Split(v, ",")
	}
	if v, ok := a.values["types"]; ok {
		r.TypesFilter = strings.Split(v, ",")
	}
	send(d, r, a.int("version", 5), func(resp *kmsg.ListGroupsResponse) string {
		text := "list " + codeName(resp.ErrorCode)
		for _, g := range resp.Groups {
			text += fmt.Sprintf(" [%s type=%s %s %s]", g.Group, g.ProtocolType, g.GroupState, g.GroupType)
		}
		return text
	})
}

func (d *driver) delete(a args) {
	r := kmsg.NewPtrDeleteGroupsRequest()
	r.Groups = a.words
	send(d, r, a.int("version", 2), func(resp *kmsg.DeleteGroupsResponse) string {
		text := "delete"
		for _, g := range resp.Groups {
			text += fmt.Sprintf(" [%s %s]", g.Group, codeName(g.ErrorCode))
		}
		return text
	})
}
