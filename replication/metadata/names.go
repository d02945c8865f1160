package metadata

import (
	"fmt"
	"strings"
)

// MaxTopicName is the longest topic name in bytes, as in Kafka.
const MaxTopicName = 249

// CheckTopicName applies Kafka's rules: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and
// '-', and neither "." nor ".." (a topic is a folder). The error says which rule.
func CheckTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the topic name is empty")
	case len(name) > MaxTopicName:
		return fmt.Errorf("the topic name is %d bytes long, the longest allowed is %d", len(name), MaxTopicName)
	case name == "." || name == "..":
		return fmt.Errorf("a topic cannot be named %q", name)
	}
	for i := range len(name) {
		if !topicNameByte(name[i]) {
			return fmt.Errorf("the topic name %q has a character other than a-z, A-Z, 0-9, '.', '_' and '-'", name)
		}
	}
	return nil
}

func topicNameByte(b byte) bool {
	switch {
	case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9':
		return true
	}
	return b == '.' || b == '_' || b == '-'
}

// collisionKey is the name as metrics hold it, where '.' becomes '_'. Two topics
// with one key would share their metrics, so Kafka refuses the second; hence the
// key is unique and serves as the key of the topics' table.
func collisionKey(name string) []byte { return []byte(strings.ReplaceAll(name, ".", "_")) }
