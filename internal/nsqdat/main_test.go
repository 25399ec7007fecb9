package nsqdat_test

import (
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inBubble is synctest.Test. Under the race detector everything runs on one
// thread: two that look at due timers of one bubble at the same time can crash
// the detector itself (https://github.com/golang/go/issues/78156).
func inBubble(t *testing.T, f func(*testing.T)) {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, f)
}
