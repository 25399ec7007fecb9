//go:build !linux

package main

import (
	"errors"
	"time"
)

func runSoakTask(string) error { return errSoak }

func runSoak(time.Duration, uint64) error { return errSoak }

var errSoak = errors.New("-soak needs Linux: it stops processes, and reads /proc")
