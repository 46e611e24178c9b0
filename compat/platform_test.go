package compat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v9/esapi"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-github/v87/github"
	"github.com/httpretry/httpretry"
	"github.com/stripe/stripe-go/v83"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

func newGitHub(baseURL string, retry *httpretry.RetryTransport) (*github.Client, error) {
	client, err := github.NewClient(
		github.WithHTTPClient(&http.Client{Transport: retry}), // it has no retries of its own
		github.WithEnterpriseURLs(baseURL, baseURL),
		github.WithAuthToken("token"),
	)
	return client, err
}

func newKubernetes(config *rest.Config, retry *httpretry.RetryTransport) (*dynamic.DynamicClient, error) {
	config = dynamic.ConfigFor(config)
	config.Wrap(func(base http.RoundTripper) http.RoundTripper {
		retry.Base = base // it has the certificates of the cluster
		return retry
	})
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return dynamic.New(once{client}), nil
}

// once disables the retries of a client-go client. Its typed clients take
// it as well: corev1.New(once{client}).
type once struct{ rest.Interface }

func (o once) Verb(verb string) *rest.Request           { return o.Interface.Verb(verb).MaxRetries(0) }
func (o once) Get() *rest.Request                       { return o.Verb(http.MethodGet) }
func (o once) Post() *rest.Request                      { return o.Verb(http.MethodPost) }
func (o once) Put() *rest.Request                       { return o.Verb(http.MethodPut) }
func (o once) Delete() *rest.Request                    { return o.Verb(http.MethodDelete) }
func (o once) Patch(kind types.PatchType) *rest.Request { return o.Interface.Patch(kind).MaxRetries(0) }

func newStripe(url string, retry *httpretry.RetryTransport) *stripe.Client {
	client := stripe.NewClient("key", stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		HTTPClient:        &http.Client{Transport: retry},
		MaxNetworkRetries: stripe.Int64(0), // disables the SDK's own retries
		URL:               &url,
	})))
	return client
}

func newElasticsearch(node *url.URL, retry *httpretry.RetryTransport) (*esapi.API, error) {
	transport, err := elastictransport.NewClient(
		elastictransport.WithTransport(retry),
		elastictransport.WithDisableRetry(), // disables the SDK's own retries
		elastictransport.WithURLs(node),
	)
	if err != nil {
		return nil, err
	}
	return esapi.New(transport), nil
}

func registryOptions(retry *httpretry.RetryTransport) []remote.Option {
	options := []remote.Option{
		remote.WithTransport(retry),
		remote.WithRetryStatusCodes(), // this and the next disable the SDK's own retries
		remote.WithRetryPredicate(func(error) bool { return false }),
	}
	return options
}

func TestPlatforms(t *testing.T) {
	runSDKTests(t, []sdkTest{
		{
			name: "go-github", reason: "a POST that was refused twice", fails: failures{1: busy, 2: down},
			service: func() http.Handler { return respond("application/json", `{"number":7}`) }, call: githubIssue,
		},
		{
			name: "client-go list", reason: "a GET is retried after each of them", fails: failures{1: reset, 2: busy, 3: down},
			service: kubernetesService, call: kubernetesList,
		},
		{
			name: "client-go watch", reason: "the stream of events begins with the attempt that succeeds",
			fails: failures{1: reset, 2: down}, service: kubernetesService, call: kubernetesWatch,
		},
		{
			name: "stripe-go", reason: "every POST has an Idempotency-Key, the same on each attempt",
			fails:   failures{1: reset, 2: busy, 3: down},
			service: func() http.Handler { return respond("application/json", `{"id":"cus_1","object":"customer"}`) },
			call:    stripeCustomer,
		},
		{
			name: "go-elasticsearch", reason: "a document with an id of its own is a PUT", fails: failures{1: reset, 2: busy, 3: down},
			service: func() http.Handler { return respond("application/json", `{"result":"created"}`) }, call: elasticsearchIndex,
		},
		{
			name: "go-containerregistry", reason: "an image is pushed and pulled back; before each it tries https, in vain",
			fails: failures{1: down, 5: busy, 7: early, 9: reset}, pass: 19, elsewhere: 2, configure: largeBodies,
			service: func() http.Handler { return registry.New(registry.Logger(quiet)) }, call: registryPush,
		},
	})
}

func githubIssue(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := newGitHub(url, retry)
	if err != nil {
		return err
	}
	issue, _, err := client.Issues.Create(ctx, "owner", "repo", &github.IssueRequest{Title: github.Ptr("a title")})
	if err != nil {
		return err
	}
	return want("number", issue.GetNumber(), 7)
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func kubernetesList(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := newKubernetes(&rest.Config{Host: url}, retry)
	if err != nil {
		return err
	}
	list, err := client.Resource(configMaps).Namespace("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return want("name", list.Items[0].GetName(), "settings")
}

func kubernetesWatch(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := newKubernetes(&rest.Config{Host: url}, retry)
	if err != nil {
		return err
	}
	watch, err := client.Resource(configMaps).Namespace("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer watch.Stop()
	var kinds []string
	for event := range watch.ResultChan() {
		kinds = append(kinds, string(event.Type))
	}
	return want("events", fmt.Sprint(kinds), "[ADDED MODIFIED DELETED]")
}

// kubernetesService has one ConfigMap, and three things to tell to a watch.
func kubernetesService() http.Handler {
	const object = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings","namespace":"default"}}`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintf(w, `{"apiVersion":"v1","kind":"ConfigMapList","metadata":{},"items":[%s]}`, object)
			return
		}
		for _, kind := range []string{"ADDED", "MODIFIED", "DELETED"} {
			fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", kind, object)
			w.(http.Flusher).Flush()
		}
	})
}

func stripeCustomer(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newStripe(url, retry)
	customer, err := client.V1Customers.Create(ctx, &stripe.CustomerCreateParams{Email: stripe.String("a@example.com")})
	if err != nil {
		return err
	}
	return want("id", customer.ID, "cus_1")
}

func elasticsearchIndex(ctx context.Context, address string, retry *httpretry.RetryTransport) error {
	node, err := url.Parse(address)
	if err != nil {
		return err
	}
	es, err := newElasticsearch(node, retry)
	if err != nil {
		return err
	}
	resp, err := es.Index("index", strings.NewReader(`{"title":"a document"}`),
		es.Index.WithDocumentID("1"), es.Index.WithContext(ctx))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Result string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	return want("result", answer.Result, "created")
}

func registryPush(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	image, err := random.Image(1<<20, 2)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(strings.TrimPrefix(url, "http://") + "/repo:tag")
	if err != nil {
		return err
	}
	options := append(registryOptions(retry), remote.WithContext(ctx), remote.WithJobs(1))
	if err := remote.Write(tag, image, options...); err != nil {
		return err
	}
	pulled, err := remote.Image(tag, options...)
	if err != nil {
		return err
	}
	layers, err := pulled.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil { // it verifies the digest
			return err
		}
		r.Close()
	}
	got, err := pulled.Digest()
	if err != nil {
		return err
	}
	pushed, err := image.Digest()
	if err != nil {
		return err
	}
	return want("digest", got, pushed)
}
