package wire

import "slices"

// idleCommands is for how many commands a batch and a queue keep memory while
// they are empty.
const idleCommands = 32

// queue holds the commands in flight, oldest first.
type queue[T any] struct {
	items []command[T]
	head  int
}

func (q *queue[T]) len() int          { return len(q.items) - q.head }
func (q *queue[T]) first() command[T] { return q.items[q.head] }

func (q *queue[T]) push(c command[T]) {
	switch full := len(q.items) == cap(q.items); {
	case full && q.head > len(q.items)/2:
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	case full:
		q.items = slices.Grow(q.items, len(q.items)+idleCommands)
	}
	q.items = append(q.items, c)
}

func (q *queue[T]) pop() {
	q.items[q.head] = command[T]{}
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}

// tags are the tags of all but PINGs.
func (q *queue[T]) tags() (tags []T) {
	for _, c := range q.items[q.head:] {
		if c.verb != Ping {
			tags = append(tags, c.tag)
		}
	}
	return tags
}

// trim gives the memory of an empty queue back, but for a little.
func (q *queue[T]) trim() {
	if q.len() == 0 && cap(q.items) >= 2*idleCommands { // what was asked for is rounded up
		q.items = nil
	}
}
