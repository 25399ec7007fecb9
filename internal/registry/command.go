package registry

// Command is one REGISTER or UNREGISTER, and what its answer will mean.
type Command struct {
	subject    *entry // the topic or channel that it is about
	seq        uint64 // its place when the command was made
	topicSeq   uint64 // that of its topic
	ackTo      uint64 // the log is acknowledged up to here …
	reads      uint64 // … by so many entries
	unregister bool
	tries      uint8 // that went before, of a ghost
}

func newCommand(unregister bool, e *entry) Command {
	c := Command{subject: e, seq: e.seq, topicSeq: e.seq, unregister: unregister}
	if e.parent != nil {
		c.topicSeq = e.parent.seq
	}
	return c
}

// Verb is the command's name in NSQ's TCP protocol.
func (c Command) Verb() string {
	if c.unregister {
		return "UNREGISTER"
	}
	return "REGISTER"
}

func (c Command) topic() *entry {
	if c.subject.parent != nil {
		return c.subject.parent
	}
	return c.subject
}

// Topic is the name of the topic, or of the channel's topic.
func (c Command) Topic() string { return c.topic().name }

// Channel is the name of the channel; empty if the command is about the topic alone.
func (c Command) Channel() string {
	if c.subject.parent == nil {
		return ""
	}
	return c.subject.name
}
