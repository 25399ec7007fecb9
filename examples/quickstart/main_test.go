package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// Whoever pastes the README's program into a module of their own gets a program
// that builds, registers, and ends in good order.
func TestREADMEsProgramWorksInAModuleOfItsOwn(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be sent an interrupt")
	}
	program := build(t, programOfREADME(t))
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, "-lookupd-tcp-address", lookupd.TCPAddress)
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())

	isFound := false // once the program says so
	var log []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		log = append(log, lines.Text())
		if strings.HasSuffix(lines.Text(), " registered") {
			isFound = len(lookupd.Producers("orders", "mail")) == 1
			command.Process.Signal(os.Interrupt)
		}
	}
	require.NoError(t, command.Wait(), log)
	require.True(t, isFound, log)
	require.Contains(t, log[len(log)-1], "lookupd left", "it ends in good order")
}

// programOfREADME returns the first Go code of README.md, which is main.go.
func programOfREADME(t *testing.T) string {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, code, _ := strings.Cut(string(readme), "```go\n")
	code, _, _ = strings.Cut(code, "```")
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, withoutComment, _ := strings.Cut(string(program), "package main\n")
	require.Equal(t, "package main\n"+withoutComment, code)
	return code
}

// build makes a module of code and returns the program built from it. The library
// comes from this repository, everything else from where its tests have it.
func build(t *testing.T, code string) (program string) {
	library, err := filepath.Abs("../..")
	require.NoError(t, err)
	sums, err := os.ReadFile(filepath.Join(library, "go.sum"))
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.go": code,
		"go.sum":  string(sums),
		"go.mod": "module pasted\n\ngo 1.26.0\n\nrequire github.com/lookuploop/lookuploop v0.0.0\n\n" +
			"replace github.com/lookuploop/lookuploop => " + library + "\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	command := exec.Command("go", "build", "-mod=mod", "-o", "pasted")
	command.Dir = dir
	command.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return filepath.Join(dir, "pasted")
}
