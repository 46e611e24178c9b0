package deploy

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A cluster runs the containers of the manifests as processes. The volume /data is a
// directory, and so is each ConfigMap.
type cluster struct {
	t         *testing.T
	bin       string
	work      string
	config    string
	manifests []manifest
	hosts     *strings.Replacer // from the addresses in the manifests to those of the test
}

// newCluster returns a cluster that has the addresses of the test in place of others.
func newCluster(t *testing.T, addresses ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, bin: build(t), work: t.TempDir(), config: t.TempDir(), manifests: mustDecode(t)}
	c.hosts = strings.NewReplacer(append(addresses, "/data/", c.work+"/")...)
	for _, m := range c.manifests {
		if o, ok := m.Object.(*corev1.ConfigMap); ok {
			for key, text := range o.Data {
				writeFile(t, filepath.Join(c.config, o.Name, key), c.hosts.Replace(text))
			}
		}
	}
	return c
}

// find returns the object with that type and name.
func find[T metav1.Object](c *cluster, name string) T {
	c.t.Helper()
	for _, m := range c.manifests {
		if o, ok := m.Object.(T); ok && o.GetName() == name {
			return o
		}
	}
	c.t.Fatalf("there is no %T %s", *new(T), name)
	panic("not reached")
}

// command returns the process of the only container of a pod, which has further
// environment variables from Kubernetes.
func (c *cluster) command(pod corev1.PodSpec, env ...string) *exec.Cmd {
	c.t.Helper()
	if len(pod.Containers) != 1 || len(pod.Containers[0].Command) > 0 {
		c.t.Fatalf("got %d containers, want one with the entrypoint of the image", len(pod.Containers))
	}
	container := pod.Containers[0]
	hosts := c.hosts
	for _, v := range pod.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		i := slices.IndexFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		hosts = strings.NewReplacer(container.VolumeMounts[i].MountPath+"/", filepath.Join(c.config, v.ConfigMap.Name)+"/")
	}
	var args []string
	for _, arg := range container.Args {
		args = append(args, c.hosts.Replace(hosts.Replace(arg)))
	}
	cmd := exec.CommandContext(c.t.Context(), c.bin, args...)
	cmd.Env = append(env, c.environment(container.Env)...)
	return cmd
}

// environment returns the variables of a container, with the values of Secrets.
func (c *cluster) environment(variables []corev1.EnvVar) (env []string) {
	var earlier []string // $(NAME) and its value, in turn
	for _, v := range variables {
		value := strings.NewReplacer(earlier...).Replace(v.Value)
		if v.ValueFrom != nil {
			ref := v.ValueFrom.SecretKeyRef
			value = find[*corev1.Secret](c, ref.Name).StringData[ref.Key]
		}
		env = append(env, v.Name+"="+value)
		earlier = append(earlier, "$("+v.Name+")", value)
	}
	return env
}

// start starts processes. If the test fails, their logs are printed.
func (c *cluster) start(processes ...*exec.Cmd) {
	c.t.Helper()
	for _, p := range processes {
		p.Stderr = new(bytes.Buffer)
		if err := p.Start(); err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() {
			p.Wait() // perhaps once more
			if c.t.Failed() {
				c.t.Logf("%s:\n%s", strings.Join(p.Args, " "), p.Stderr)
			}
		})
	}
}

// wait waits for the ends of processes, which must be a success.
func (c *cluster) wait(processes ...*exec.Cmd) {
	c.t.Helper()
	for _, p := range processes {
		if err := p.Wait(); err != nil {
			c.t.Errorf("%s: %v", strings.Join(p.Args, " "), err)
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// The pods of the Indexed Job and that of the join Job make one output, with the
// arguments and the settings of the manifests.
func TestShards(t *testing.T) {
	const requests = 500
	g := newGateway(t, nil)
	c := newCluster(t, "http://gateway-a:8000", g.URL)
	writeRequests(t, filepath.Join(c.work, "requests.jsonl"), requests)
	job := find[*batchv1.Job](c, "batchinfer-shards")
	var pods []*exec.Cmd
	for i := range *job.Spec.Completions {
		pods = append(pods, c.command(job.Spec.Template.Spec, fmt.Sprintf("JOB_COMPLETION_INDEX=%d", i)))
	}
	for some := range slices.Chunk(pods, int(*job.Spec.Parallelism)) {
		c.start(some...)
		c.wait(some...)
	}
	join := c.command(find[*batchv1.Job](c, "batchinfer-join").Spec.Template.Spec)
	c.start(join)
	c.wait(join)
	verifyAnswers(t, filepath.Join(c.work, "answers.jsonl"), requests)
}
