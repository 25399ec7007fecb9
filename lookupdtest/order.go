package lookupdtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Order makes a Server misbehave, or lets a test watch it. Pass it to [Server.Do].
// Functions such as [Hang] and [CutSent] create orders. [Once], [Times], [After] and
// [On] limit them:
//
//	server.Do(Once(After(2, Hang())))        // the third command from now on is never answered
//	server.Do(On("REGISTER orders", Drop())) // a client that registers the topic orders loses the connection
//
// An Order is a value. It can be stored and given to several servers.
type Order struct {
	at      point
	matches func(*exchange) bool // nil: always
	act     func(x *exchange, next func())
	after   int // matches to let pass first
	times   int // matches to act on, 0: until lifted
}

// point is where in a connection's life an order acts.
type point uint8

const (
	dialing   point = 1 << iota // a client wants to connect
	accepted                    // a connection has been made, nothing read from it
	waiting                     // the server reads, which lasts until there are bytes
	receiving                   // bytes have come in
	observing                   // a command has been read, whole
	answering                   // the command is to be carried out and answered
	sending                     // bytes are to go out
)

// exchange is what passes a point. It belongs to the goroutine that passes it.
type exchange struct {
	at     point
	conn   *conn           // nil when dialing
	done   <-chan struct{} // closed when nobody is interested any more
	order  *standing       // the one that is asked or acts
	cmd    Command         // observing and answering
	data   []byte          // receiving and sending: the bytes; answering: what goes out, with its length
	passed int64           // receiving and sending: the connection's bytes before data
	end    ending          // what becomes of the connection when data has gone out
	err    error           // waiting: how the read ended
}

type ending uint8

const (
	stays  ending = iota
	closes        // as a process does that ends
	resets        // at once, and what is under way is lost
)

// standing is an order that was given and not lifted.
type standing struct {
	Order
	lifted chan struct{} // closed by lift

	mu      sync.Mutex // guards what follows
	skipped int
	used    int
	busy    time.Time // until when Rate's turns are taken
}

// claim says whether the order acts on what it matches now, and whether that was the last time.
func (o *standing) claim() (acts, last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.skipped < o.after {
		o.skipped++
		return false, false
	}
	if o.times == 0 {
		return true, false
	}
	if o.used == o.times {
		return false, false
	}
	o.used++
	return true, o.used == o.times
}

// turn takes the next d of a time that all connections share, and returns how long it
// is until that is over.
func (o *standing) turn(d time.Duration) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.busy.Before(now) {
		o.busy = now
	}
	o.busy = o.busy.Add(d)
	return o.busy.Sub(now)
}

// Do gives the server an order. It applies to existing and new connections until lift is
// called, or until the order has acted as often as it says. lift may be called more than
// once. Orders nest: the first one that was given acts first. If it doesn't let a command
// through, later ones don't see that command.
//
// When lift is called, commands that the order held back are carried out and answered,
// except those of connections that have ended. Stop and Start keep orders. Orders apply
// to the TCP port; use Server.WrapHTTP for HTTP.
//
// Do may be called at any time, from any goroutine, and from the function of [Observe].
// It panics for the zero Order.
func (s *Server) Do(order Order) (lift func()) {
	s.made()
	if order.at == 0 {
		panic("lookupdtest: Do of an empty Order: make it with a function such as Hang")
	}
	o := &standing{Order: order, lifted: make(chan struct{})}
	s.mu.Lock()
	orders := append(slices.Clone(s.standing()), o)
	s.orders.Store(&orders)
	s.mu.Unlock()
	s.changed.fire()
	return sync.OnceFunc(func() {
		s.retire(o)
		close(o.lifted)
		s.changed.fire()
	})
}

// standing returns the orders that are looked at, oldest first. The slice is never
// changed: connections read it under no lock.
func (s *Server) standing() []*standing {
	if orders := s.orders.Load(); orders != nil {
		return *orders
	}
	return nil
}

// retire takes an order from those that are looked at.
func (s *Server) retire(o *standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	orders := slices.DeleteFunc(slices.Clone(s.standing()), func(other *standing) bool { return other == o })
	s.orders.Store(&orders)
}

// pass takes x past the orders that stand at its point and, if they all let it, to last.
func (s *Server) pass(x *exchange, last func(*exchange)) {
	s.passOrders(s.standing(), x, last)
}

func (s *Server) passOrders(orders []*standing, x *exchange, last func(*exchange)) {
	for i, o := range orders {
		if o.at&x.at == 0 {
			continue
		}
		x.order = o
		if o.matches != nil && !o.matches(x) {
			continue
		}
		acts, wasLast := o.claim()
		if wasLast {
			s.retire(o)
		}
		if acts {
			o.act(x, func() {
				s.passOrders(orders[i+1:], x, last)
				x.order = o
			})
			s.changed.fire()
			return
		}
	}
	last(x)
}

// goOn ends a pass at a point where there is nothing to do.
func goOn(*exchange) {}

// Once makes an order act one time.
func Once(o Order) Order { return Times(1, o) }

// Times makes an order act n times and then no more. It counts what the order acts on:
// connections for [Refuse] and [Hangup], cuts for [CutReceived] and [CutSent], reads
// for [CloseIdle], commands for most others. Connections that the order holds back stay
// so until it is lifted.
func Times(n int, o Order) Order {
	if n < 1 {
		panic(fmt.Sprintf("lookupdtest: Times(%d, …): an order is followed at least once", n))
	}
	o.times = n
	return o
}

// After makes an order skip its first n occasions. For example, After(2, Hang()) acts
// on the third command that the server receives, on any connection. See [Times] for
// what is counted.
func After(n int, o Order) Order {
	o.after = n
	return o
}

// verbs are those of the commands that nsqlookupd knows.
var verbs = []string{"IDENTIFY", "REGISTER", "UNREGISTER", "PING"}

// On limits an order to commands that begin with the words of pattern. Each word is a
// pattern as in [path.Match]:
//
//	"REGISTER orders"    the topic orders and its channels
//	"REGISTER * mail"    the channel mail of any topic
//	"* bad-*"            any command for topics that begin with bad-
//	"REGISTER *[02468]"  topics that end in an even digit
//
// On panics if the pattern is malformed, if no command of nsqlookupd has such a verb
// (verbs are upper-case), or if the order doesn't act on commands, such as [Refuse].
func On(pattern string, o Order) Order {
	if o.at&^(observing|answering) != 0 {
		panic(fmt.Sprintf("lookupdtest: On(%q, …): the order doesn't act on commands", pattern))
	}
	words := strings.Fields(pattern)
	for _, word := range words {
		if _, err := path.Match(word, ""); err != nil {
			panic(fmt.Sprintf("lookupdtest: On(%q, …): %q: %v", pattern, word, err))
		}
	}
	if len(words) > 0 && !slices.ContainsFunc(verbs, func(verb string) bool { matched, _ := path.Match(words[0], verb); return matched }) {
		panic(fmt.Sprintf("lookupdtest: On(%q, …): no command is called %q; there are IDENTIFY, REGISTER, UNREGISTER and PING", pattern, words[0]))
	}
	inner := o.matches
	o.matches = func(x *exchange) bool {
		return x.cmd.matches(words) && (inner == nil || inner(x))
	}
	return o
}

// sleep waits d, or less when the order is lifted. It returns false, and ends the
// connection, when nobody is interested any more.
func (x *exchange) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	return x.wait(timer.C)
}

// hold waits until the order is lifted. It returns as sleep does.
func (x *exchange) hold() bool { return x.wait(nil) }

func (x *exchange) wait(enough <-chan time.Time) bool {
	if x.conn != nil {
		x.conn.flush() // answers that are due
	}
	select {
	case <-enough:
	case <-x.order.lifted:
	case <-x.done:
		x.end = closes
		return false
	}
	return true
}

// sinceOrder returns how many bytes passed here, before data, since the order
// first saw this connection.
func (x *exchange) sinceOrder() int64 {
	base, ok := x.conn.seen[x.order]
	if !ok {
		base = x.passed
		x.conn.seen[x.order] = base
	}
	return x.passed - base
}
