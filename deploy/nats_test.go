package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// natsValues has the fields of nats-values.yaml. The chart ignores a value that it does
// not know, so another field is a mistake.
type natsValues struct {
	Config struct {
		Cluster struct {
			Enabled  bool `json:"enabled"`
			Replicas int  `json:"replicas"`
		} `json:"cluster"`
		JetStream struct {
			Enabled     bool `json:"enabled"`
			MemoryStore struct {
				Enabled bool `json:"enabled"`
			} `json:"memoryStore"`
			FileStore struct {
				Enabled bool `json:"enabled"`
				PVC     struct {
					Enabled bool   `json:"enabled"`
					Size    string `json:"size"`
				} `json:"pvc"`
			} `json:"fileStore"`
			Merge map[string]any `json:"merge"`
		} `json:"jetstream"`
		Merge map[string]any `json:"merge"`
	} `json:"config"`
	Container struct {
		Env   map[string]corev1.EnvVar `json:"env"`
		Merge corev1.Container         `json:"merge"`
	} `json:"container"`
	PodTemplate struct {
		TopologySpreadConstraints map[string]corev1.TopologySpreadConstraint `json:"topologySpreadConstraints"`
	} `json:"podTemplate"`
	NatsBox struct {
		Enabled bool `json:"enabled"`
	} `json:"natsBox"`
}

func readValues(t *testing.T) (v natsValues) {
	t.Helper()
	text, err := os.ReadFile("kubernetes/nats-values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// unquoted is a string that the chart writes without quotes.
var unquoted = regexp.MustCompile(`"\\u003c\\u003c (.*?) \\u003e\\u003e"`)

// render returns values as the chart writes them into the configuration of a server.
func render(t *testing.T, values map[string]any) string {
	t.Helper()
	text, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(unquoted.ReplaceAllString(string(text), "$1"), "{}")
}

// The settings reach the servers as they are meant.
func TestNATSValues(t *testing.T) {
	v := readValues(t)
	t.Setenv("QUEUE_PASSWORD", "secret")
	file := filepath.Join(t.TempDir(), "nats.conf")
	writeFile(t, file, fmt.Sprintf("jetstream: {\n%s\n}\n%s", render(t, v.Config.JetStream.Merge), render(t, v.Config.Merge)))
	var o server.Options
	if err := o.ProcessConfigFile(file); err != nil {
		t.Fatal(err)
	}
	if o.MaxPayload != 8_000_000 && o.MaxPayload != 8<<20 || o.SyncInterval != 2*time.Minute || o.Username != "batchinfer" || o.Password != "secret" {
		t.Errorf("got max_payload %d, sync_interval %v, user %q, password %q, want 8 MB, 2m and those of the Secret", o.MaxPayload, o.SyncInterval, o.Username, o.Password)
	}
	if n := v.Config.Cluster.Replicas; n != 3 || !v.Config.Cluster.Enabled || !v.Config.JetStream.FileStore.PVC.Enabled {
		t.Errorf("got %d servers, want three with disks", n)
	}
}
