package lookupdtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// Observe calls f for each command that the server receives, before the command is
// carried out and before other orders see it. f is called from the goroutine of the
// connection: in the order of the commands for one connection, and concurrently for
// several. f may call any method of the Server except Stop and Close, which would wait
// for f.
func Observe(f func(Command)) Order {
	return Order{at: observing, act: func(x *exchange, next func()) {
		f(x.cmd)
		next()
	}}
}

// Refuse rejects new connections. Existing ones stay; see [Server.CloseConnections]. On
// a [Network], Dial fails with "connection refused". On real TCP, the system accepts a
// connection before the server knows of it, so the client sees a reset before the first
// answer. Use [Server.Stop] to have a port that nobody listens on.
func Refuse() Order {
	return Order{at: dialing, act: func(x *exchange, next func()) { x.end = resets }}
}

// Blackhole simulates lost packets. On a [Network], Dial hangs until its context ends.
// On real TCP, where the system accepts, the server neither reads from new connections
// nor answers them. Existing connections stop after their next command, which is not
// answered. When the order is lifted, everything that waited continues, as when TCP
// retransmits. See also [Network.Partition].
func Blackhole() Order {
	return Order{at: dialing | answering, act: func(x *exchange, next func()) {
		if x.hold() {
			next()
		}
	}}
}

// Hangup closes new connections right after they are accepted.
func Hangup() Order {
	return Order{at: accepted, act: func(x *exchange, next func()) { x.end = closes }}
}

// Hang makes the server accept and read, but neither carry out nor answer commands, like
// a process that is stuck. When the order is lifted, the server carries out and answers
// what it received meanwhile. Until then, [Observe] sees only the first of these commands
// on each connection. If the client closes a hung connection, its commands are dropped.
func Hang() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.readOn() {
			next()
		}
	}}
}

// HalfOpen makes the server stop reading from a connection after its next command. The
// writes of the client block as soon as the buffers in between are full. Until the order
// is lifted, the server doesn't notice when the client closes the connection, so the
// registrations stay.
func HalfOpen() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.hold() {
			next()
		}
	}}
}

// Delay makes each command take d longer. The commands of one connection wait for each
// other, as in nsqlookupd. To simulate a slow network, use [Network.SetLatency].
// It panics if d is negative.
func Delay(d time.Duration) Order {
	mustNotBeNegative("Delay", d)
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.sleep(d) {
			next()
		}
	}}
}

func mustNotBeNegative(order string, d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("lookupdtest: %s(%v): a duration can't be negative", order, d))
	}
}

// Rate simulates a busy nsqlookupd. It carries out at most n commands per second, over
// all connections, in the order in which they arrive. It doesn't catch up after a pause.
// In real time, timers limit one connection to some thousand commands per second. To
// make each command slow, use [Delay]. It panics if n is less than 1.
func Rate(n int) Order {
	if n < 1 {
		panic(fmt.Sprintf("lookupdtest: Rate(%d): it is at least one command per second", n))
	}
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.sleep(x.order.turn(time.Second / time.Duration(n))) {
			next()
		}
	}}
}

// Drip sends answers one byte at a time, with d between two bytes. It panics if d is
// negative.
func Drip(d time.Duration) Order {
	mustNotBeNegative("Drip", d)
	return Order{at: answering, act: func(x *exchange, next func()) {
		next()
		for ; len(x.data) > 0; x.data = x.data[1:] {
			if !x.sleep(d) || x.conn.send(x.data[:1]) != nil || x.conn.flush() != nil {
				x.end = closes
				break
			}
		}
		x.data = nil
	}}
}

// CutReceived closes a connection after n bytes were received on it since the order was
// given. Complete commands are answered before. The four bytes of the protocol's magic
// count.
func CutReceived(n int) Order { return cut(receiving, n) }

// CutSent closes a connection after n bytes were sent on it since the order was given,
// even within an answer or its length.
func CutSent(n int) Order { return cut(sending, n) }

func cut(at point, n int) Order {
	return Order{
		at:      at,
		matches: func(x *exchange) bool { return x.sinceOrder()+int64(len(x.data)) >= int64(n) },
		act: func(x *exchange, next func()) {
			x.data = x.data[:max(0, int64(n)-x.sinceOrder())]
			x.end = closes
		},
	}
}

// CloseIdle closes a connection that sends nothing for d. Some other implementations of
// lookupd do that; nsqlookupd doesn't. It applies to an existing connection only after
// the next command on it. It panics if d is negative.
func CloseIdle(d time.Duration) Order {
	mustNotBeNegative("CloseIdle", d)
	return Order{at: waiting, act: func(x *exchange, next func()) {
		x.conn.raw.SetReadDeadline(time.Now().Add(d))
		next()
		x.conn.raw.SetReadDeadline(time.Time{})
		select {
		case <-x.order.lifted:
			if isTimeout(x.err) {
				next()
			}
		default: // an error ends the connection
		}
	}}
}

// Drop closes the connection instead of carrying out the command.
func Drop() Order {
	return Order{at: answering, act: func(x *exchange, next func()) { x.end = closes }}
}

// Reset resets the connection instead of carrying out the command. Answers that were sent
// but not read yet may be lost.
func Reset() Order {
	return Order{at: answering, act: func(x *exchange, next func()) { x.end = resets }}
}

// Restart restarts the server instead of carrying out the command: all connections are
// reset and the database is empty, as after a quick restart of the process. For a longer
// outage use [Server.Stop] and [Server.Start].
func Restart() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.conn.server.crash()
		x.end = resets
	}}
}

// Reject answers with an error, such as "E_BAD_TOPIC REGISTER topic name 'a' is not
// valid", instead of carrying out the command. Then it closes the connection without
// reading the commands that follow, as nsqlookupd does. TCP may reset the connection
// then, and the client may not receive the error.
func Reject(message string) Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.data = frame(x.data, message)
		x.end = closes
	}}
}

// BadTopic rejects REGISTER and UNREGISTER with the answer that nsqlookupd gives to an
// invalid topic name. Limit it to the names to refuse:
//
//	On("* bad-*", BadTopic())        // all commands for these topics
//	On("REGISTER bad-*", BadTopic()) // the same, but UNREGISTER works
//
// The client receives the answer or a reset, as with [Reject]. Use [Reset] instead of
// BadTopic if it is always to be a reset, and [Drop] for an orderly close without an
// answer.
func BadTopic() Order { return rejectName(1, badTopic) }

// BadChannel is like [BadTopic], for channels: On("* * bad-*", BadChannel()).
func BadChannel() Order { return rejectName(2, badChannel) }

// rejectName rejects commands that have a name at the given place.
func rejectName(place int, refusal func(Command) string) Order {
	return Order{
		at: answering,
		matches: func(x *exchange) bool {
			return (x.cmd.Name == "REGISTER" || x.cmd.Name == "UNREGISTER") && len(x.cmd.Params) >= place
		},
		act: func(x *exchange, next func()) {
			x.data = frame(x.data, refusal(x.cmd))
			x.end = closes
		},
	}
}

// Reply answers with body instead of carrying out the command. The connection stays open.
func Reply(body string) Order { return Raw(frame(nil, body)) }

// Raw sends data as it is, without a length before it, instead of carrying out the
// command. With no data, the command is not answered. The connection stays open.
func Raw(data []byte) Order {
	data = bytes.Clone(data)
	return Order{at: answering, act: func(x *exchange, next func()) { x.data = append(x.data, data...) }}
}

// Length sends only the length n of an answer, and no answer, instead of carrying out the
// command. Useful values are -1, 0, 1<<31 - 1, and one more than the client accepts.
func Length(n int32) Order { return Raw(binary.BigEndian.AppendUint32(nil, uint32(n))) }

// Garbage answers with n random bytes instead of carrying out the command. The bytes are
// the same for the same seed.
func Garbage(seed uint64, n int) Order {
	data := make([]byte, n)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return Raw(data)
}

// SpeakHTTP answers as an HTTP server does when a client takes it for a lookupd, and
// closes the connection.
func SpeakHTTP() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.data = append(x.data, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Connection: close\r\n\r\n400 Bad Request"...)
		x.end = closes
	}}
}

// Unasked sends one additional response with this body after each answer.
func Unasked(body string) Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		next()
		x.data = frame(x.data, body)
	}}
}

// Twice sends each answer twice.
func Twice() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		next()
		x.data = append(x.data, x.data...)
	}}
}
