package durability

// Crowd is one of each kind of client.
type Crowd struct {
	// Readers are one from the start and one with auto.offset.reset=latest.
	Readers []*Reader
	// Group is two members, whose positions are watched.
	Group *Group
}

// Crowd puts the usual load on: idempotent producers and a plain one, readers, and
// a watched group. Consumers come first, so that the reader from the end begins where
// the log does.
func (l *Load) Crowd(group string, producers int) (*Crowd, error) {
	c := &Crowd{}
	for _, r := range []struct {
		name   string
		latest bool
	}{{"the reader from the start", false}, {"the reader with auto.offset.reset=latest", true}} {
		reader, err := l.Reader(r.name, r.latest)
		if err != nil {
			return nil, err
		}
		c.Readers = append(c.Readers, reader)
	}
	var err error
	if c.Group, err = l.Group(group, 2); err != nil {
		return nil, err
	}
	if err := l.Watch(c.Group); err != nil {
		return nil, err
	}
	for range producers {
		if err := l.Producer(); err != nil {
			return nil, err
		}
	}
	return c, l.Plain()
}
