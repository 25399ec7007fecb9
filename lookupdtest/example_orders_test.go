package lookupdtest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// Each example gives an order to a lookupd that a broker is connected to, and prints
// what the broker sees. connect, ask and answer are the broker's side: one connection,
// one command, the body of one response.

func ExampleServer_Do() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lift := lookupd.Do(lookupdtest.Unasked("NEWS"))
	fmt.Println(b.ask("PING"), b.answer())
	lift()
	fmt.Println(b.ask("PING"), b.answer())
	// Output:
	// OK NEWS
	// OK no answer
}

func ExampleOnce() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Once(lookupdtest.Reply("E_UNHEARD_OF")))
	fmt.Println(b.ask("PING"))
	fmt.Println(b.ask("PING"))
	// Output:
	// E_UNHEARD_OF
	// OK
}

func ExampleTimes() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Times(2, lookupdtest.Reply("E_UNHEARD_OF")))
	fmt.Println(b.ask("PING"), b.ask("PING"), b.ask("PING"))
	// Output:
	// E_UNHEARD_OF E_UNHEARD_OF OK
}

func ExampleAfter() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.After(2, lookupdtest.Drop())) // the third command
	fmt.Println(b.ask("PING"), b.ask("PING"), b.ask("PING"))
	// Output:
	// OK OK closed after 0 bytes
}

func ExampleOn() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("REGISTER orders bad-*", lookupdtest.Drop()))
	fmt.Println(b.ask("REGISTER news bad-1"))
	fmt.Println(b.ask("REGISTER orders"))
	fmt.Println(b.ask("REGISTER orders bad-2"))
	// Output:
	// OK
	// OK
	// closed after 0 bytes
}

func ExampleObserve() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Observe(func(c lookupdtest.Command) { fmt.Println("got", c) }))
	b.ask("REGISTER orders mail")
	b.ask("PING")
	// Output:
	// got REGISTER orders mail
	// got PING
}

func ExampleRefuse() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Refuse())
	conn, err := net.Dial("tcp", lookupd.TCPAddress)
	if err == nil { // the system accepted it before the server could refuse
		_, err = conn.Read(make([]byte, 1))
	}
	fmt.Println("new:", errors.Is(err, syscall.ECONNRESET))
	fmt.Println("there before:", b.ask("PING"))
	// Output:
	// new: true
	// there before: OK
}

// On a Network the dial itself fails.
func ExampleRefuse_network() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()

	lookupd.Do(lookupdtest.Refuse())
	_, err := network.Dial(context.Background(), "tcp", "lookupd.test:4160")
	fmt.Println(err)
	// Output:
	// dial tcp lookupd.test:4160: connect: connection refused
}

// On a Network the dial hangs until its context ends.
func ExampleBlackhole() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()

	lookupd.Do(lookupdtest.Blackhole())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := network.Dial(ctx, "tcp", "lookupd.test:4160")
	fmt.Println(err)
	// Output:
	// dial tcp lookupd.test:4160: context deadline exceeded
}

func ExampleHangup() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	lookupd.Do(lookupdtest.Once(lookupdtest.Hangup()))
	conn, err := net.Dial("tcp", lookupd.TCPAddress)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(broker{conn}.answer())
	// Output:
	// closed after 0 bytes
}

func ExampleHang() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lift := lookupd.Do(lookupdtest.Hang())
	fmt.Println(b.ask("REGISTER orders"), lookupd.Topics())
	lift()
	fmt.Println(b.answer(), lookupd.Topics())
	// Output:
	// no answer []
	// OK [orders]
}

func ExampleHalfOpen() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)
	b.ask("REGISTER orders")

	lookupd.Do(lookupdtest.HalfOpen())
	fmt.Println(b.ask("PING"))
	b.Close() // which nobody notices
	fmt.Println(lookupd.Producers("orders", ""))
	// Output:
	// no answer
	// [broker.test:4150]
}

func ExampleDelay() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Delay(20 * time.Millisecond))
	start := time.Now()
	fmt.Println(b.ask("PING"), time.Since(start) >= 20*time.Millisecond)
	// Output:
	// OK true
}

func ExampleRate() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b, other := connect(lookupd), connect(lookupd)

	lookupd.Do(lookupdtest.Rate(100)) // commands per second
	start := time.Now()
	fmt.Println(b.ask("PING"), other.ask("PING"), b.ask("PING"), time.Since(start) >= 3*10*time.Millisecond)
	// Output:
	// OK OK OK true
}

func ExampleDrip() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Drip(5 * time.Millisecond))
	start := time.Now()
	fmt.Println(b.ask("PING"), time.Since(start) >= 6*5*time.Millisecond) // a length of 4 bytes and a body of 2
	// Output:
	// OK true
}

func ExampleCutReceived() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.CutReceived(len("REGISTER orders\nREGIS")))
	fmt.Println(b.ask("REGISTER orders\nREGISTER news"))
	fmt.Println(b.answer())
	fmt.Println(lookupd.Topics())
	// Output:
	// OK
	// closed after 0 bytes
	// [orders]
}

func ExampleCutSent() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.CutSent(3))
	fmt.Println(b.ask("PING"))
	// Output:
	// closed after 3 bytes
}

func ExampleCloseIdle() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()

	lookupd.Do(lookupdtest.CloseIdle(10 * time.Millisecond))
	b := connect(lookupd)
	fmt.Println(b.answer()) // to nothing
	// Output:
	// closed after 0 bytes
}

func ExampleDrop() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Drop())
	fmt.Println(b.ask("PING"))
	// Output:
	// closed after 0 bytes
}

func ExampleReset() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("REGISTER bad-*", lookupdtest.Reset())) // as a refusal whose answer is lost
	fmt.Println(b.ask("REGISTER orders"))
	fmt.Println(b.ask("REGISTER bad-orders"))
	// Output:
	// OK
	// connection reset
}

func ExampleRestart() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b, other := connect(lookupd), connect(lookupd)
	other.ask("REGISTER orders")

	lookupd.Do(lookupdtest.Once(lookupdtest.Restart()))
	fmt.Println(b.ask("REGISTER news"))
	fmt.Println(other.answer())
	fmt.Println(lookupd.Topics())
	// Output:
	// connection reset
	// connection reset
	// []
}

func ExampleReject() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("* orders", lookupdtest.Reject("E_BAD_TOPIC not here")))
	fmt.Println(b.ask("REGISTER news"))
	fmt.Println(b.ask("REGISTER orders"))
	fmt.Println(b.answer())
	// Output:
	// OK
	// E_BAD_TOPIC not here
	// closed after 0 bytes
}

func ExampleBadTopic() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("* bad-*", lookupdtest.BadTopic()))
	fmt.Println(b.ask("REGISTER orders"))
	fmt.Println(b.ask("REGISTER bad-orders mail"))
	fmt.Println(b.answer())
	// Output:
	// OK
	// E_BAD_TOPIC REGISTER topic name 'bad-orders' is not valid
	// closed after 0 bytes
}

func ExampleBadChannel() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("* * bad-*", lookupdtest.BadChannel()))
	fmt.Println(b.ask("REGISTER bad-orders mail"))
	fmt.Println(b.ask("REGISTER bad-orders bad-mail"))
	// Output:
	// OK
	// E_BAD_CHANNEL REGISTER channel name 'bad-mail' is not valid
}

func ExampleReply() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.On("PING", lookupdtest.Reply("PONG")))
	fmt.Println(b.ask("PING"))
	// Output:
	// PONG
}

func ExampleRaw() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Once(lookupdtest.Raw([]byte("\x00\x00\x00\x05HELLO"))))
	fmt.Println(b.ask("PING"))
	// Output:
	// HELLO
}

func ExampleLength() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	for _, n := range []int32{-1, 0, math.MaxInt32} {
		lookupd.Do(lookupdtest.Once(lookupdtest.Length(n)))
		fmt.Printf("%q\n", b.ask("PING"))
	}
	// Output:
	// "a length of -1"
	// ""
	// "a length of 2147483647"
}

func ExampleGarbage() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Once(lookupdtest.Garbage(1, 4)))
	fmt.Println(b.ask("PING"))
	// Output:
	// a length of 697079726
}

func ExampleSpeakHTTP() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.SpeakHTTP())
	fmt.Println(b.ask("PING")) // "HTTP", taken for a length
	// Output:
	// a length of 1213486160
}

func ExampleUnasked() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Once(lookupdtest.Unasked("NEWS")))
	fmt.Println(b.ask("PING"))
	fmt.Println(b.answer())
	// Output:
	// OK
	// NEWS
}

func ExampleTwice() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)

	lookupd.Do(lookupdtest.Once(lookupdtest.Twice()))
	fmt.Println(b.ask("PING"))
	fmt.Println(b.answer())
	// Output:
	// OK
	// OK
}
