//go:build slurm

package deploy

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slurmConfig is for a controller and a node on loopback that need no daemon for
// credentials, no cgroups and no privileges.
const slurmConfig = `
ClusterName=test
SlurmctldHost=%[2]s(127.0.0.1)
SlurmctldPort=%[4]s
SlurmdPort=%[5]s
SlurmUser=%[3]s
SlurmdUser=%[3]s
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/none
CredType=cred/none
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd.pid
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
KillWait=5
NodeName=node NodeHostname=%[2]s NodeAddr=127.0.0.1 CPUs=8
PartitionName=all Nodes=node Default=YES
`

// A slurm is a cluster of one node, with a directory of its own.
type slurm struct {
	t    *testing.T
	dir  string
	conf string // variable of the environment, which all its processes have
	env  []string
}

// newSlurm starts a cluster whose tasks find the programs in the directory bin.
func newSlurm(t *testing.T, bin string) *slurm {
	t.Helper()
	s := &slurm{t: t, dir: t.TempDir()}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"state", "spool", "cgroup"} {
		if err := os.Mkdir(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(s.dir, "slurm.conf")
	s.conf = "SLURM_CONF=" + conf
	writeFile(t, conf, fmt.Sprintf(slurmConfig, s.dir, host, who.Username, freePort(t), freePort(t)))
	// Slurmd loads a plugin for cgroups even though nothing uses it.
	writeFile(t, filepath.Join(s.dir, "cgroup.conf"), fmt.Sprintf("CgroupPlugin=cgroup/v1\nCgroupMountpoint=%s/cgroup\n", s.dir))
	s.env = append(os.Environ(), s.conf, "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin")
	t.Cleanup(s.killRest)
	s.daemon("slurmctld", "-D", "-i")
	s.daemon("slurmd", "-D", "-N", "node")
	eventually(t, 30*time.Second, "the node is idle", func() bool {
		out, err := s.command("sinfo", "-h", "-o", "%T").Output()
		return err == nil && string(out) == "idle\n"
	})
	return s
}

// command returns a command of the cluster, which must not outlive the test.
func (s *slurm) command(name string, args ...string) *exec.Cmd {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // Debian's, which is not on everybody's PATH
	}
	cmd := exec.CommandContext(s.t.Context(), path, args...)
	cmd.Env, cmd.Dir = s.env, s.dir
	return cmd
}

// run runs a command of the cluster and returns its output.
func (s *slurm) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// daemon starts a daemon of the cluster. If the test fails, its log is printed.
func (s *slurm) daemon(name string, args ...string) {
	s.t.Helper()
	var log bytes.Buffer
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // at the end of the test
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("starting %s (Debian: apt-get install slurm-wlm): %v", name, err)
	}
	s.t.Cleanup(func() {
		cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", name, log.String())
		}
	})
}

// processes returns the processes whose environment has all these variables.
func (s *slurm) processes(variables ...string) (pids []int) {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		s.t.Fatal(err)
	}
next:
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // of another user, or gone
		}
		for _, v := range variables {
			if !bytes.Contains(append([]byte{0}, text...), []byte("\x00"+v+"\x00")) {
				continue next
			}
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			s.t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// killRest kills the processes that a failed test has left: tasks outlive the daemons.
func (s *slurm) killRest() {
	for _, pid := range s.processes(s.conf) {
		s.t.Logf("process %d is still there", pid)
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// wait waits until no job is left. Slurm runs a task again two minutes after it was
// requeued. This is content with three seconds, the least in which the node tells
// the credentials of both runs apart.
func (s *slurm) wait() {
	s.t.Helper()
	sooner := make(map[string]bool)
	eventually(s.t, time.Minute, "all jobs have ended", func() bool {
		jobs := strings.Fields(s.run("squeue", "-h", "-o", "%i/%r"))
		for _, job := range jobs {
			if id, found := strings.CutSuffix(job, "/BeginTime"); found && !sooner[id] {
				s.run("scontrol", "update", "JobId="+id, "StartTime=now+3")
				sooner[id] = true
			}
		}
		return len(jobs) == 0
	})
}

// Of the tasks of an array, one is requeued by Slurm, the batchinfer of another is killed,
// and a third gets the signal for the end of its time. They run again, and each request
// has one answer in the end.
func TestSlurm(t *testing.T) {
	const requests, tasks = 400, 4
	bin := filepath.Dir(build(t))
	array, err := filepath.Abs("slurm/array.sh")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	g := newGateway(t, func(r *http.Request, prompt string) {
		// Half of each part waits, so that no task ends before it was disturbed.
		if n, err := strconv.Atoi(strings.TrimPrefix(prompt, "prompt ")); err != nil || n%100 >= 50 {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	s := newSlurm(t, bin)
	writeRequests(t, filepath.Join(s.dir, "requests.jsonl"), requests)
	id := s.run("sbatch", "--parsable", fmt.Sprintf("--array=0-%d", tasks-1), array, "requests.jsonl", "parts", "-url", g.URL)
	join := s.run("sbatch", "--parsable", "--dependency=afterok:"+id, filepath.Join(filepath.Dir(array), "join.sh"), "requests.jsonl", "parts", "answers.jsonl")
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
		for _, name := range logs {
			text, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", filepath.Base(name), text)
		}
	})

	eventually(t, 30*time.Second, "each task has written answers", func() bool {
		parts, _ := filepath.Glob(filepath.Join(s.dir, "parts", "*.jsonl"))
		for _, part := range parts {
			if text, err := os.ReadFile(part); err != nil || bytes.Count(text, []byte("\n")) < 5 {
				return false
			}
		}
		return len(parts) == tasks
	})
	s.run("scontrol", "requeue", id+"_1")
	killed := 0
	for _, pid := range s.processes("SLURM_ARRAY_JOB_ID="+id, "SLURM_ARRAY_TASK_ID=2", s.conf) {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); filepath.Base(exe) == "batchinfer" {
			syscall.Kill(pid, syscall.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("killed %d processes of task 2, want its batchinfer", killed)
	}
	s.run("scancel", "--batch", "--signal=USR1", id+"_3")
	close(release)
	s.wait()

	for task, want := range []string{"Restarts=0", "Restarts=1", "Restarts=1", "Restarts=1"} {
		if job := s.run("scontrol", "show", "job", fmt.Sprintf("%s_%d", id, task)); !strings.Contains(job, "JobState=COMPLETED") || !strings.Contains(job, want) {
			t.Errorf("got task %d\n%s\nwant it completed, with %s", task, job, want)
		}
	}
	if job := s.run("scontrol", "show", "job", join); !strings.Contains(job, "JobState=COMPLETED") {
		t.Errorf("got the job that joins\n%s\nwant it completed", job)
	}
	verifyAnswers(t, filepath.Join(s.dir, "answers.jsonl"), requests)
}
