package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// runSoakTask is the main function of a process of a soak. task is its name and its
// arguments.
func runSoakTask(task string) error {
	args := strings.Fields(task)
	switch args[0] {
	case "broker":
		return runSoakBroker(args[1], args[2], args[3], args[4:])
	case "lookupd":
		return runSoakLookupd(args[1], args[2])
	}
	return fmt.Errorf("unknown task %q", task)
}

// serve carries out what the soak asks of receiver, until the soak ends.
func serve(receiver any) error {
	server := rpc.NewServer()
	if err := server.RegisterName("Process", receiver); err != nil {
		return err
	}
	server.ServeConn(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	return nil
}

// process is a broker or a lookupd while it runs.
type process struct {
	cmd   *exec.Cmd
	calls *rpc.Client // nil for a real nsqlookupd
}

// startProcess starts a program, whose log is appended to a file. It ends with this
// process, however that ends.
func startProcess(cmd *exec.Cmd, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // no Ctrl-C for it
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd}, nil
}

// startTask starts this program once more.
func startTask(logFile string, task ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), soakTask+"="+strings.Join(task, " "))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p, err := startProcess(cmd, logFile)
	if err != nil {
		return nil, err
	}
	p.calls = rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{stdout, stdin})
	return p, nil
}

// call asks the process for something and waits for the answer.
func (p *process) call(method string, args, reply any) error {
	if reply == nil {
		reply = new(struct{})
	}
	if err := p.calls.Call("Process."+method, args, reply); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// kill ends the process at once, with SIGKILL, if it was started.
func (p *process) kill() {
	if p == nil {
		return
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
	if p.calls != nil {
		p.calls.Close()
	}
}

// history is a file that says what was done when.
type history struct{ file *os.File }

func newHistory(dir string) (history, error) {
	file, err := os.Create(filepath.Join(dir, "history.log"))
	return history{file}, err
}

func (h history) add(format string, args ...any) {
	fmt.Fprintf(h.file, time.Now().Format(time.RFC3339Nano)+" "+format+"\n", args...)
}

// pause waits up to twice the mean. It returns false if ctx ends meanwhile.
func pause(ctx context.Context, random *rand.Rand, mean time.Duration) bool {
	select {
	case <-time.After(time.Duration(random.Int64N(int64(2 * mean)))):
		return true
	case <-ctx.Done():
		return false
	}
}

// freeAddresses returns a function that returns addresses on loopback where nobody
// listens, each once. The system chooses no port below 32768 for others, so they stay
// free while a process is down.
func freeAddresses(random *rand.Rand) func() string {
	ports := random.Perm(22_000)
	return func() string {
		for {
			address := fmt.Sprintf("127.0.0.1:%d", 10_000+ports[0])
			ports = ports[1:]
			if listener, err := net.Listen("tcp", address); err == nil {
				listener.Close()
				return address
			}
		}
	}
}
