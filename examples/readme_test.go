// Package examples_test holds the README's excerpts of what the examples print
// against what they print.
package examples_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// changing is what differs from one run of the tour to the next.
var changing = regexp.MustCompile(`(ok|all|in) +[0-9.]+( m?s)?`)

func TestREADMEShowsWhatTheTourPrints(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, excerpt, found := strings.Cut(string(readme), "\n$ go run ./examples/tour\n")
	require.True(t, found)
	excerpt, _, found = strings.Cut(excerpt, "\n```\n")
	require.True(t, found)

	output, err := exec.Command("go", "run", "./tour").Output()
	require.NoError(t, err)
	printed := changing.ReplaceAllString(string(output), "$1 #")
	pieces := strings.Split(changing.ReplaceAllString(excerpt, "$1 #"), "…\n")
	require.Greater(t, len(pieces), 1)
	for _, piece := range pieces[1:] { // before the first … is nothing
		piece = strings.TrimSpace(piece)
		require.NotEmpty(t, piece)
		_, after, found := strings.Cut(printed, piece)
		require.True(t, found, "the tour doesn't print\n%s\nbut\n%s", piece, printed)
		printed = after // the pieces are in the order of the tour
	}
	require.Equal(t, "\n", printed, "the last piece is the tour's last line")
}
