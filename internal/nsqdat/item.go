package nsqdat

import "iter"

// Item is a topic, or one of its channels. Channels follow their topic.
type Item struct {
	Topic   string
	Channel string // empty: the topic itself
	Paused  bool
}

// Contents is what a file holds.
type Contents struct {
	Version  string  // of the broker that wrote it; nothing depends on it
	Topics   int     // how many there are
	Channels int     // in all topics together
	IsClean  bool    // the file is there, for good, and is what a Writer would make of this
	LeftOut  LeftOut // names that NSQ doesn't allow
	Nsqd03   string  // the name of a file of nsqd 0.3, if that is all that there is; it isn't read

	topics []topic
}

// LeftOut is what was left out of a file. There may be any number.
type LeftOut struct {
	Count int
	Some  []string // describes the first few
}

const maxLeftOut = 10 // in Some

// Items yields the topics and channels, each once, in the order of the file.
func (c *Contents) Items() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for _, t := range c.topics {
			if !yield(Item{Topic: t.Name, Paused: t.Paused}) {
				return
			}
			for _, ch := range t.Channels {
				if !yield(Item{Topic: t.Name, Channel: ch.Name, Paused: ch.Paused}) {
					return
				}
			}
		}
	}
}
