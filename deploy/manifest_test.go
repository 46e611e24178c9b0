package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// A scaledObject has the fields of KEDA's ScaledObject that keda.yaml uses. The module
// of KEDA would bring those of all its scalers.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval int       `json:"pollingInterval"`
		CooldownPeriod  int       `json:"cooldownPeriod"`
		MinReplicaCount int       `json:"minReplicaCount"`
		MaxReplicaCount int       `json:"maxReplicaCount"`
		Triggers        []trigger `json:"triggers"`
	} `json:"spec"`
}

// A trigger is one of KEDA's scaler nats-jetstream.
type trigger struct {
	Type     string `json:"type"`
	Metadata struct {
		Endpoint     string `json:"natsServerMonitoringEndpoint"`
		Account      string `json:"account"`
		Stream       string `json:"stream"`
		Consumer     string `json:"consumer"`
		LagThreshold string `json:"lagThreshold"`
	} `json:"metadata"`
}

// DeepCopyObject makes a scaledObject a runtime.Object. Only its type is used.
func (s *scaledObject) DeepCopyObject() runtime.Object {
	c := *s
	return &c
}

// A manifest is an object of a file.
type manifest struct {
	file string
	runtime.Object
}

// decoder returns a decoder that fails on an unknown field and on a repeated one, as
// the API server does.
func decoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}, &scaledObject{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// decode returns the objects in the text of a file.
func decode(file string, text []byte) (all []manifest, err error) {
	d := decoder()
	for _, part := range bytes.Split(text, []byte("\n---\n")) {
		object, _, err := d.Decode(part, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, manifest{file, object})
	}
	return all, nil
}

// readManifests returns the text of each file for kubectl.
func readManifests(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got files %v, %v, want manifests", files, err)
	}
	texts := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(file); name != "nats-values.yaml" { // which is for Helm
			texts[name] = string(text)
		}
	}
	return texts
}

// decodeAll returns the objects of all files.
func decodeAll(texts map[string]string) (all []manifest, err error) {
	for file, text := range texts {
		objects, err := decode(file, []byte(text))
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

func mustDecode(t *testing.T) []manifest {
	t.Helper()
	all, err := decodeAll(readManifests(t))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestManifests(t *testing.T) {
	for _, problem := range check(mustDecode(t)) {
		t.Error(problem)
	}
}

// A mistake in a manifest is noticed.
func TestManifests_Mistakes(t *testing.T) {
	for _, test := range []struct{ file, old, new, want string }{
		{"head.yaml", "backoffLimit:", "backofflimit:", "unknown field"},
		{"head.yaml", "      restartPolicy: Never", "      restartPolicy: Never\n      restartPolicy: Never", "already set"},
		{"head.yaml", "storage: 500Gi", "storage: 500Gigs", "quantities must match"},
		{"head.yaml", "kind: Job", "kind: Jobs", "no kind"},
		{"keda.yaml", "cooldownPeriod", "coolDownPeriod", "unknown field"},
		{"head.yaml", "claimName: batchinfer-head", "claimName: other", "no PersistentVolumeClaim other"},
		{"workers.yaml", "name: batchinfer-gateway-a\n                  key", "name: other\n                  key", "no Secret other"},
		{"workers.yaml", "key: api-key", "key: other", "Secret batchinfer-gateway-a has no key other"},
		{"workers.yaml", "configMap:\n            name: batchinfer-queue", "configMap:\n            name: other", "no ConfigMap other"},
		{"workers.yaml", "        - name: config\n          configMap", "        - name: other\n          configMap", "no volume config"},
		{"workers.yaml", "      app: batchinfer-worker\n      gateway: a", "      app: other", "selector"},
		{"workers.yaml", "$(QUEUE_PASSWORD)", "$(OTHER)", "no variable OTHER"},
		{"keda.yaml", "scaleTargetRef:\n    name: batchinfer-gateway-a", "scaleTargetRef:\n    name: other", "no Deployment other"},
		{"shards.yaml", "completions: 64", "completions: 65", "completions"},
		{"shards.yaml", "restartPolicy: Never", "restartPolicy: OnFailure", "restartPolicy"},
		{"shards.yaml", "podReplacementPolicy: Failed", "podReplacementPolicy: TerminatingOrFailed", "podReplacementPolicy"},
		{"head.yaml", "namespace: batchinfer\nspec:\n  #", "namespace: other\nspec:\n  #", "namespace"},
		{"head.yaml", "claimName: batchinfer-head\n", "claimName: batchinfer-head\n        - name: spare\n          emptyDir: {}\n", "volume spare is not mounted"},
	} {
		t.Run(test.file+" "+test.new, func(t *testing.T) {
			texts := readManifests(t)
			if !strings.Contains(texts[test.file], test.old) {
				t.Fatalf("%s does not have %q", test.file, test.old)
			}
			texts[test.file] = strings.Replace(texts[test.file], test.old, test.new, 1)
			all, err := decodeAll(texts)
			got := fmt.Sprint(err)
			if err == nil {
				got = strings.Join(check(all), "\n")
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %q, want a message with %q", got, test.want)
			}
		})
	}
}
