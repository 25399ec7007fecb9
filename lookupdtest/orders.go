package lookupdtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// Observe calls f for each command that the server gets, before it is carried out
// and before any other order sees it. f is called by the connection's goroutine, so
// for one connection in the order of the commands, for several at the same time. f
// may call any method of the Server but Stop and Close, which would wait for it.
func Observe(f func(Command)) Order {
	return Order{at: observing, act: func(x *exchange, next func()) {
		f(x.cmd)
		next()
	}}
}

// Refuse turns new connections away; those that are there stay (CloseConnections
// ends them). On a [Network] Dial fails with "connection refused". On real TCP the
// system accepts a connection before the server hears of it, so the client sees it
// reset before the first answer; for a port that nobody listens on there is Stop.
func Refuse() Order {
	return Order{at: dialing, act: func(x *exchange, next func()) { x.end = resets }}
}

// Blackhole makes packets vanish. On a [Network] Dial hangs until its context ends;
// on real TCP, where the system accepts, new connections are never read from and
// never answered. Connections that are there are read from no more once they sent
// another command, and not answered. When lifted, what waited goes on, as after TCP
// sent its packets again. See also Network.Partition.
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

// Hang makes the server accept and read, but not carry out and not answer, as a
// process that is stuck. What it was sent meanwhile is carried out and answered when
// the order is lifted; until then [Observe] sees none of it but the command that each
// connection hung at. A hung connection that the client closes is forgotten.
func Hang() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.readOn() {
			next()
		}
	}}
}

// HalfOpen makes the server stop reading from a connection that sent a command, so
// that the client's writes wait as soon as the buffers between are full. That the
// client closes goes unnoticed and its registrations stay, until the order is lifted.
func HalfOpen() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.hold() {
			next()
		}
	}}
}

// Delay makes each command take d longer. Commands of one connection wait for each
// other, as they do in nsqlookupd. (For a slow network there is Network.SetLatency.)
func Delay(d time.Duration) Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		if x.sleep(d) {
			next()
		}
	}}
}

// Rate makes the server carry out n commands per second at most, those of all connections
// together and in the order in which they come, as an nsqlookupd does that is busy. After
// a pause it is no faster. In real time, timers keep a single connection to some thousand
// commands per second. (For a command that takes its time there is [Delay].)
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

// Drip sends answers a byte at a time, each d after the one before.
func Drip(d time.Duration) Order {
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

// CutReceived closes a connection when n bytes have been received on it since the
// order was given, after answering the commands that are complete. The four bytes of
// the protocol's magic count.
func CutReceived(n int) Order { return cut(receiving, n) }

// CutSent closes a connection when n bytes have been sent on it since the order was
// given, be it amid an answer or its length.
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

// CloseIdle closes a connection that sends nothing for d, as other implementations of
// lookupd do; nsqlookupd never does. A connection that the server waits for already is
// concerned once it has sent something.
func CloseIdle(d time.Duration) Order {
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

// Drop closes the connection instead of carrying a command out.
func Drop() Order {
	return Order{at: answering, act: func(x *exchange, next func()) { x.end = closes }}
}

// Reset resets the connection instead of carrying a command out: answers that are
// under way may be lost.
func Reset() Order {
	return Order{at: answering, act: func(x *exchange, next func()) { x.end = resets }}
}

// Restart makes the server start anew, empty, instead of carrying a command out:
// all connections are reset and the database is gone, as after a crash that was
// over before anyone could notice. For a time between there are Stop and Start.
func Restart() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.conn.server.crash()
		x.end = resets
	}}
}

// Reject answers with an error, say "E_BAD_TOPIC REGISTER topic name 'a' is not
// valid", instead of carrying a command out, and closes the connection with the
// commands behind it unread, as nsqlookupd does: TCP may then reset it, and the error
// never reach the client.
func Reject(message string) Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.data = frame(x.data, message)
		x.end = closes
	}}
}

// BadTopic rejects REGISTER and UNREGISTER with nsqlookupd's answer to a topic name that
// it takes for invalid. Narrow it to the names that are to be refused:
//
//	On("* bad-*", BadTopic())        // all that concerns these topics
//	On("REGISTER bad-*", BadTopic()) // but let them be unregistered
//
// The client may get the answer or a reset instead of it, as with [Reject]; with [Reset]
// in place of BadTopic it always gets the reset, and with [Drop] neither.
func BadTopic() Order { return rejectName(1, badTopic) }

// BadChannel is [BadTopic] for channels: On("* * bad-*", BadChannel()).
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

// Reply answers with any body instead of carrying a command out. The connection goes on.
func Reply(body string) Order { return Raw(frame(nil, body)) }

// Raw answers with bytes that are sent as they are, without a length before them,
// instead of carrying a command out; with none the command stays without an answer. The
// connection goes on.
func Raw(data []byte) Order {
	data = bytes.Clone(data)
	return Order{at: answering, act: func(x *exchange, next func()) { x.data = append(x.data, data...) }}
}

// Length answers with the length n, of a body that never comes, instead of carrying a
// command out: -1, 0, 1<<31 - 1, or one more than the client takes.
func Length(n int32) Order { return Raw(binary.BigEndian.AppendUint32(nil, uint32(n))) }

// Garbage answers with n random bytes, the same for the same seed, instead of
// carrying a command out.
func Garbage(seed uint64, n int) Order {
	data := make([]byte, n)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return Raw(data)
}

// SpeakHTTP answers as a web server would that was taken for a lookupd, and closes.
func SpeakHTTP() Order {
	return Order{at: answering, act: func(x *exchange, next func()) {
		x.data = append(x.data, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Connection: close\r\n\r\n400 Bad Request"...)
		x.end = closes
	}}
}

// Unasked sends one more response, with this body, behind each answer.
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
