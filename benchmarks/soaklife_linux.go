package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lookuploop/lookuploop"
)

// soakPatience is how long a call may take that doesn't depend on lookupds.
const soakPatience = 30 * time.Second

// timeToClose is how long Close may take: 2 s, and the rest is for a busy machine.
const timeToClose = 10 * time.Second

// soakBroker is a broker of a soak, and the model of what it has. One goroutine at a
// time uses it.
type soakBroker struct {
	*process
	address    string
	dir, log   string
	maxBackoff time.Duration
	crashes    bool // now and then
	history    history
	random     *rand.Rand
	lookupds   []string // TCP addresses of all
	configured []string // and those that it is told

	names    soakNames
	onDisk   []soakNames // what may be on disk: what was confirmed last, then each later state
	drawn    int         // the number of changes
	restarts int
	watching []*rpc.Call // calls of Watch under way
}

func (b *soakBroker) start() (err error) {
	task := []string{"broker", b.dir, b.address, b.maxBackoff.String()}
	b.process, err = startTask(b.log, append(task, b.configured...)...)
	return err
}

// live changes things until ctx ends, with pauses.
func (b *soakBroker) live(ctx context.Context, mean time.Duration) (err error) {
	for err == nil && pause(ctx, b.random, mean) {
		switch lot := b.random.IntN(1000); {
		case lot < 700:
			err = b.notify(1)
		case lot < 750:
			err = b.notify(50)
		case lot < 800:
			err = b.declare(50)
		case lot < 900:
			err = b.persist()
		case lot < 920:
			b.watching = append(b.watching, b.calls.Go("Process.Watch", 10*mean, new(struct{}), nil))
		case lot < 940:
			err = b.configure(1 + b.random.IntN(len(b.lookupds)))
		case lot < 950 && b.crashes:
			err = b.restart()
		}
	}
	for _, call := range b.watching {
		if <-call.Done; err == nil {
			err = call.Error
		}
	}
	b.watching = nil
	if err != nil {
		return fmt.Errorf("broker %s: %w", b.address, err)
	}
	return nil
}

// draw draws n changes. New names come up all the time and old ones aren't used any
// more, so what is kept of them would be seen.
func (b *soakBroker) draw(n int) ([]soakChange, soakNames) {
	b.drawn += n
	return b.names.draw(b.random, n, b.drawn/40)
}

// notify makes n random changes in one call.
func (b *soakBroker) notify(n int) error {
	changes, names := b.draw(n)
	b.history.add("broker %s notifies %v", b.address, changes)
	if err := b.call("Notify", changes, nil); err != nil {
		return err
	}
	b.become(names)
	return nil
}

// declare makes n random changes by naming all that there is then.
func (b *soakBroker) declare(n int) error {
	changes, names := b.draw(n)
	b.history.add("broker %s declares %v", b.address, changes)
	if err := b.call("SetMetadata", names.metadata(), nil); err != nil {
		return err
	}
	b.become(names)
	return nil
}

func (b *soakBroker) become(names soakNames) {
	b.names = names
	b.onDisk = append(b.onDisk, names.persistent())
}

// persist notes that everything is on disk once the broker says so.
func (b *soakBroker) persist() error {
	err := b.call("PersistMetadata", soakPatience, nil)
	if err == nil {
		b.onDisk = []soakNames{b.names.persistent()}
		b.history.add("broker %s has persisted", b.address)
	}
	return err
}

// configure tells the broker n of the lookupds.
func (b *soakBroker) configure(n int) error {
	b.configured = nil
	for _, i := range b.random.Perm(len(b.lookupds))[:n] {
		b.configured = append(b.configured, b.lookupds[i])
	}
	b.history.add("broker %s is told %v", b.address, b.configured)
	return b.call("SetLookupdTCPAddresses", b.configured, nil)
}

// restart ends the broker, with SIGKILL or in an orderly way, and starts it. It then
// has what it had persisted, or what it had later.
func (b *soakBroker) restart() error {
	if b.random.IntN(2) == 0 {
		if err := b.close(); err != nil {
			return err
		}
	} else {
		b.history.add("broker %s is killed", b.address)
		b.kill()
	}
	b.watching = nil
	b.restarts++
	if err := b.start(); err != nil {
		return err
	}
	names, err := b.has()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(b.onDisk, func(possible soakNames) bool { return maps.Equal(possible, names) }) {
		return fmt.Errorf("after a restart it has neither what was persisted (%w) nor a later state (of %d, the last one: %w)",
			difference(b.onDisk[0], names), len(b.onDisk), difference(b.onDisk[len(b.onDisk)-1], names))
	}
	b.history.add("broker %s is back", b.address)
	b.names, b.onDisk = names, []soakNames{names}
	return nil
}

// close ends the broker in an orderly way. Everything is on disk then.
func (b *soakBroker) close() error {
	b.history.add("broker %s closes", b.address)
	began := time.Now()
	if err := b.call("Close", struct{}{}, nil); err != nil {
		return err
	}
	if took := time.Since(began); took > timeToClose {
		return fmt.Errorf("Close took %v", took)
	}
	b.onDisk = []soakNames{b.names.persistent()}
	b.kill()
	return nil
}

// has asks the broker what it has.
func (b *soakBroker) has() (soakNames, error) {
	var m lookuploop.Metadata
	err := b.call("Metadata", struct{}{}, &m)
	return namesOf(m), err
}

// check requires that the broker has what it should have, and that Verify finds
// nothing.
func (b *soakBroker) check() error {
	names, err := b.has()
	if err != nil {
		return err
	}
	if err := difference(b.names, names); err != nil {
		return fmt.Errorf("Metadata: %w", err)
	}
	if err := b.persist(); err != nil {
		return err
	}
	if err := b.checkFile(); err != nil {
		return err
	}
	return b.call("Verify", soakPatience, nil)
}

// checkFile requires that everything is on disk.
func (b *soakBroker) checkFile() error {
	data, err := os.ReadFile(filepath.Join(b.dir, "nsqd.dat"))
	if err != nil {
		return err
	}
	var m lookuploop.Metadata
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("nsqd.dat: %w", err)
	}
	if err := difference(b.names.persistent(), namesOf(m)); err != nil {
		return fmt.Errorf("nsqd.dat: %w", err)
	}
	return nil
}
