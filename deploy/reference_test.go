package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A checker collects the mistakes of manifests.
type checker struct {
	keys     map[string][]string // of each Secret and ConfigMap; of others none
	file     string
	problems []string
}

// check returns the mistakes of manifests that can be decoded.
func check(all []manifest) []string {
	c := checker{keys: make(map[string][]string)}
	for _, m := range all {
		c.declare(m)
	}
	for _, m := range all {
		c.file = m.file
		c.object(m)
	}
	return c.problems
}

func (c *checker) wrong(format string, args ...any) {
	c.problems = append(c.problems, c.file+": "+fmt.Sprintf(format, args...))
}

// declare notes an object, so that others can refer to it.
func (c *checker) declare(m manifest) {
	name := m.GetObjectKind().GroupVersionKind().Kind + " " + m.Object.(metav1.Object).GetName()
	c.keys[name] = nil
	switch o := m.Object.(type) {
	case *corev1.Secret:
		for key := range o.StringData {
			c.keys[name] = append(c.keys[name], key)
		}
	case *corev1.ConfigMap:
		for key := range o.Data {
			c.keys[name] = append(c.keys[name], key)
		}
	}
}

// refer notes a reference to an object and, unless it is empty, to one of its keys.
func (c *checker) refer(kind, name, key string) {
	keys, ok := c.keys[kind+" "+name]
	switch {
	case !ok:
		c.wrong("there is no %s %s", kind, name)
	case key != "" && !slices.Contains(keys, key):
		c.wrong("the %s %s has no key %s", kind, name, key)
	}
}

func (c *checker) object(m manifest) {
	if o := m.Object.(metav1.Object); o.GetNamespace() != "batchinfer" && m.GetObjectKind().GroupVersionKind().Kind != "Namespace" {
		c.wrong("%s is in the namespace %q", o.GetName(), o.GetNamespace())
	}
	switch o := m.Object.(type) {
	case *batchv1.Job:
		c.job(o)
		c.pod(o.Spec.Template.Spec)
	case *appsv1.Deployment:
		if selector := o.Spec.Selector.MatchLabels; fmt.Sprint(selector) != fmt.Sprint(o.Spec.Template.Labels) {
			c.wrong("the selector %v is not that of the pods, %v", selector, o.Spec.Template.Labels)
		}
		c.pod(o.Spec.Template.Spec)
	case *scaledObject:
		c.refer("Deployment", o.Spec.ScaleTargetRef.Name, "")
	}
}

// shardCount is the number of parts in -shard=auto/N.
var shardCount = regexp.MustCompile(`^-shard=auto/(\d+)$`)

func (c *checker) job(o *batchv1.Job) {
	pod := o.Spec.Template.Spec
	if pod.RestartPolicy != corev1.RestartPolicyNever {
		c.wrong("a podFailurePolicy needs the restartPolicy Never, and this is %s", pod.RestartPolicy)
	}
	if p := o.Spec.PodReplacementPolicy; p == nil || *p != batchv1.Failed {
		c.wrong("the podReplacementPolicy must be Failed, so that two pods never have one output")
	}
	for _, arg := range pod.Containers[0].Args {
		if m := shardCount.FindStringSubmatch(arg); m != nil && (o.Spec.Completions == nil || fmt.Sprint(*o.Spec.Completions) != m[1]) {
			c.wrong("completions is not %s, as in %s", m[1], arg)
		}
	}
}

func (c *checker) pod(pod corev1.PodSpec) {
	unused := make(map[string]bool)
	for _, v := range pod.Volumes {
		unused[v.Name] = true
		switch {
		case v.PersistentVolumeClaim != nil:
			c.refer("PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName, "")
		case v.ConfigMap != nil:
			c.refer("ConfigMap", v.ConfigMap.Name, "")
		}
	}
	for _, container := range pod.Containers {
		c.environment(container.Env)
		for _, mount := range container.VolumeMounts {
			if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }) {
				c.wrong("there is no volume %s", mount.Name)
			}
			delete(unused, mount.Name)
		}
	}
	for name := range unused {
		c.wrong("the volume %s is not mounted", name)
	}
}

// variable is a reference to an earlier environment variable.
var variable = regexp.MustCompile(`\$\((\w+)\)`)

func (c *checker) environment(env []corev1.EnvVar) {
	var earlier []string
	for _, e := range env {
		for _, m := range variable.FindAllStringSubmatch(e.Value, -1) {
			if !slices.Contains(earlier, m[1]) {
				c.wrong("%s: there is no variable %s before it", e.Name, m[1])
			}
		}
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			c.refer("Secret", e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key)
		} else if strings.Contains(e.Name, "KEY") || strings.Contains(e.Name, "PASSWORD") {
			c.wrong("%s does not come from a Secret", e.Name)
		}
		earlier = append(earlier, e.Name)
	}
}
