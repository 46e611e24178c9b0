package compat_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/flaky"
	"github.com/minio/minio-go/v7"
	miniocredentials "github.com/minio/minio-go/v7/pkg/credentials"
	"google.golang.org/api/option"
)

func newS3(cfg aws.Config, retry *httpretry.RetryTransport) *s3.Client {
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: retry}
		o.Retryer = aws.NopRetryer{} // disables the SDK's own retries
	})
	return client
}

func newGCS(ctx context.Context, baseURL string, retry *httpretry.RetryTransport) (*storage.Client, error) {
	client, err := storage.NewClient(ctx,
		option.WithHTTPClient(&http.Client{Transport: retry}),
		option.WithoutAuthentication(), // otherwise it searches files and the network for credentials
		option.WithEndpoint(baseURL),
	)
	if err != nil {
		return nil, err
	}
	// Disables the SDK's own retries, including those of the chunks of an upload,
	// which RetryNever leaves enabled.
	client.SetRetry(storage.WithPolicy(storage.RetryAlways), storage.WithErrorFunc(func(error) bool { return false }))
	return client, nil
}

// forGCS sets up retry for Google Cloud Storage.
func forGCS(retry *httpretry.RetryTransport) {
	strict := newStrictClassifier()
	retry.MaxReplayBytes = 16 << 20 // the default size of the SDK's chunks
	retry.Classifier = strict       // Uncertain for a 503
	retry.Idempotent = func(req *http.Request) bool {
		query := req.URL.Query()
		return req.Method == http.MethodGet ||
			query.Has("ifGenerationMatch") || query.Has("ifMetagenerationMatch") || // a precondition
			query.Get("uploadType") == "resumable" || // the start of an upload in chunks
			req.Header.Get("Content-Range") != "" // a chunk
	}
}

// Only requests that Google Cloud Storage may process twice are retried after a
// 503. A 429 was not processed.
func TestGCS_Retries(t *testing.T) {
	tests := []struct {
		method, query, contentRange string
		status, attempts            int
		reason                      string
	}{
		{"GET", "", "", 503, 2, "it changes nothing"},
		{"DELETE", "", "", 503, 1, "a retry may delete a newer object"},
		{"DELETE", "ifGenerationMatch=7", "", 503, 2, "the generation would no longer match"},
		{"PATCH", "ifMetagenerationMatch=7", "", 503, 2, "the metageneration would no longer match"},
		{"POST", "uploadType=multipart", "", 503, 1, "a retry may overwrite a newer object"},
		{"POST", "uploadType=multipart&ifGenerationMatch=0", "", 503, 2, "the object would exist"},
		{"POST", "uploadType=resumable", "", 503, 2, "a second session replaces nothing"},
		{"POST", "", "bytes 0-99/100", 503, 2, "the chunk has its place"},
		{"DELETE", "", "", 429, 2, "it was not processed"},
	}
	for _, tt := range tests {
		script := flaky.New(flaky.Status(tt.status))
		retry := &httpretry.RetryTransport{}
		forGCS(retry)
		retry.Base, retry.Policy = script.Transport(nil), httpretry.RetryConfig{InitialBackoff: time.Millisecond}
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "https://storage.googleapis.com/b/o?"+tt.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.contentRange != "" {
			req.Header.Set("Content-Range", tt.contentRange)
		}
		resp, err := retry.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := len(script.Requests()); got != tt.attempts {
			t.Errorf("%s ?%s %q after %d: got %d attempts, want %d: %s",
				tt.method, tt.query, tt.contentRange, tt.status, got, tt.attempts, tt.reason)
		}
	}
}

func newMinio(host string, creds *miniocredentials.Credentials, retry *httpretry.RetryTransport) (*minio.Client, error) {
	client, err := minio.New(host, &minio.Options{
		Transport:  retry,
		MaxRetries: 1, // one attempt: disables the SDK's own retries
		Creds:      creds,
		Region:     "eu-central-1",
	})
	return client, err
}

func newAzblob(serviceURL string, cred *azblob.SharedKeyCredential, retry *httpretry.RetryTransport) (*azblob.Client, error) {
	client, err := azblob.NewClientWithSharedKeyCredential(serviceURL, cred, &azblob.ClientOptions{
		ClientOptions: policy.ClientOptions{
			Transport: &http.Client{Transport: retry},
			Retry:     policy.RetryOptions{MaxRetries: -1}, // disables the SDK's own retries
		},
	})
	return client, err
}

func TestStorage(t *testing.T) {
	runSDKTests(t, []sdkTest{
		{
			name: "aws-sdk-go-v2 S3", reason: "a stream that can be read once, in chunks with a trailer: the signature holds on each replay",
			fails: failures{1: early, 2: busy, 3: reset}, tls: true, configure: largeBodies, service: s3Service, call: s3Put,
		},
		{
			name: "aws-sdk-go-v2 S3 get", reason: "an object is fetched",
			fails: failures{1: reset, 2: down}, tls: true, service: objectService, call: s3Get,
		},
		{
			name: "cloud.google.com/go/storage", reason: "one request that holds a description and the data",
			fails: failures{1: busy, 2: down}, configure: largeBodies, service: gcsService, call: gcsWrite,
		},
		{
			name: "cloud.google.com/go/storage in chunks", reason: "the first chunk of an upload that can be resumed is reset",
			fails: failures{1: down, 3: reset}, pass: 3, failFrom: 2,
			configure: forGCS, service: gcsService, call: gcsWriteChunk,
		},
		{
			name: "cloud.google.com/go/storage get", reason: "an object is fetched",
			fails: failures{1: reset, 2: down}, service: objectService, call: gcsRead,
		},
		{
			name: "minio-go get", reason: "an object is fetched",
			fails: failures{1: reset, 2: down}, service: objectService, call: minioGet,
		},
		{
			name: "minio-go", reason: "each chunk of the stream is signed",
			fails: failures{1: early, 2: reset, 3: down}, configure: largeBodies, service: s3Service, call: minioPut,
		},
		{
			name: "azblob", reason: "its GetBody rewinds one reader",
			fails: failures{1: early, 2: reset, 3: busy}, service: azblobService, call: azblobUpload(readAll(stream(objectSize))),
		},
	})
}

const objectSize = 5 << 20

var objectDigest = digest(stream(objectSize))

const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "a secret of the tests"
)

func s3Config(url string) aws.Config {
	return aws.Config{
		Region:       "eu-central-1",
		BaseEndpoint: &url,
		Credentials:  credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	}
}

func s3Put(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newS3(s3Config(url), retry)
	size := int64(objectSize)
	_, err := client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("object"), Body: stream(size), ContentLength: &size,
	})
	return err
}

func s3Get(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client := newS3(s3Config(url), retry)
	object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("object")})
	if err != nil {
		return err
	}
	defer object.Body.Close()
	return want("digest", digest(object.Body), objectDigest)
}

func minioClient(url string, retry *httpretry.RetryTransport) (*minio.Client, error) {
	return newMinio(strings.TrimPrefix(url, "http://"), miniocredentials.NewStaticV4(accessKey, secretKey, ""), retry)
}

func minioPut(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := minioClient(url, retry)
	if err != nil {
		return err
	}
	_, err = client.PutObject(ctx, "bucket", "object", stream(objectSize), objectSize, minio.PutObjectOptions{})
	return err
}

func minioGet(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := minioClient(url, retry)
	if err != nil {
		return err
	}
	object, err := client.GetObject(ctx, "bucket", "object", minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer object.Close()
	return want("digest", digest(object), objectDigest)
}

// objectService has one object, under every path.
func objectService() http.Handler {
	object := readAll(stream(objectSize))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
		w.Header().Set("ETag", `"etag"`)
		w.Header().Set("Content-Length", strconv.Itoa(len(object)))
		io.WriteString(w, object)
	})
}

// s3Service takes an object if its signature and its content are right.
func s3Service() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
			body = &awsChunks{r: bufio.NewReader(body)}
		}
		got := digest(body)
		io.Copy(io.Discard, r.Body)
		if err := errors.Join(verifySignature(r), want("digest", got, objectDigest)); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", `"etag"`)
	})
}

// verifySignature signs what arrived once more, and compares. The chunks of a
// body have signatures of their own that start from this one.
func verifySignature(r *http.Request) error {
	given := r.Header.Get("Authorization")
	_, rest, _ := strings.Cut(given, "SignedHeaders=")
	signed, _, _ := strings.Cut(rest, ",")
	again, err := http.NewRequest(r.Method, "https://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(signed, ";") {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
		if name == "content-length" {
			again.ContentLength = r.ContentLength
		}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return err
	}
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err = signer.SignHTTP(r.Context(), creds, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", "eu-central-1", at)
	if err != nil {
		return err
	}
	_, given, _ = strings.Cut(given, "Signature=")
	_, made, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	return want("signature", given, made)
}

// awsChunks decodes a body of the content encoding aws-chunked.
type awsChunks struct {
	r    *bufio.Reader
	left int64
	end  error
}

func (c *awsChunks) Read(p []byte) (int, error) {
	for c.left == 0 {
		if c.end != nil {
			return 0, c.end
		}
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, fmt.Errorf("chunk header %q: %w", line, err)
		}
		if line = strings.TrimSpace(line); line == "" {
			continue // the end of the chunk before
		}
		size, _, _ := strings.Cut(line, ";")
		if c.left, err = strconv.ParseInt(size, 16, 64); err != nil {
			return 0, err
		}
		if c.left == 0 {
			c.end = io.EOF
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func gcsWrite(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	return gcsWriteIn(ctx, url, retry, 0)
}

func gcsWriteChunk(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	return gcsWriteIn(ctx, url, retry, 4<<20)
}

func gcsWriteIn(ctx context.Context, url string, retry *httpretry.RetryTransport, chunkSize int) error {
	client, err := newGCS(ctx, url+"/storage/v1/", retry)
	if err != nil {
		return err
	}
	defer client.Close()
	w := client.Bucket("bucket").Object("object").NewWriter(ctx)
	w.ChunkSize = chunkSize
	w.ContentType = "application/octet-stream"
	if _, err := io.Copy(w, stream(objectSize)); err != nil {
		w.Close()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return want("digest", w.Attrs().Etag, objectDigest)
}

func gcsRead(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
	client, err := newGCS(ctx, url+"/storage/v1/", retry)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.Bucket("bucket").Object("object").NewReader(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	return want("digest", digest(r), objectDigest)
}

// gcsService takes an object in one request of two parts, or in two chunks
// after they were announced. It answers with the digest as the ETag, and with
// the checksum, which the SDK compares.
func gcsService() http.Handler {
	var object bytes.Buffer
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer io.Copy(io.Discard, r.Body)
		switch r.URL.Query().Get("uploadType") {
		case "resumable":
			w.Header().Set("Location", "http://"+r.Host+"/chunks")
			return
		case "multipart":
			_, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
			parts := multipart.NewReader(r.Body, params["boundary"])
			parts.NextPart() // the description
			if data, err := parts.NextPart(); err == nil {
				io.Copy(&object, data)
			}
		default:
			io.Copy(&object, r.Body)
		}
		if object.Len() < objectSize {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", object.Len()-1))
			w.Header().Set("X-Http-Status-Code-Override", "308")
			return
		}
		checksum := crc32.Checksum(object.Bytes(), crc32.MakeTable(crc32.Castagnoli))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"bucket":"bucket","name":"object","etag":%q,"crc32c":%q}`,
			digest(&object), base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, checksum)))
	})
}

// azblobUpload returns a call that uploads data, and compares the digest.
func azblobUpload(data string) func(context.Context, string, *httpretry.RetryTransport) error {
	return func(ctx context.Context, url string, retry *httpretry.RetryTransport) error {
		cred, err := azblob.NewSharedKeyCredential("account", "a2V5")
		if err != nil {
			return err
		}
		client, err := newAzblob(url+"/account", cred, retry)
		if err != nil {
			return err
		}
		resp, err := client.UploadBuffer(ctx, "container", "blob", []byte(data), nil)
		if err != nil {
			return err
		}
		return want("digest", string(*resp.ETag), digest(strings.NewReader(data)))
	}
}

func azblobService() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", digest(r.Body))
		w.WriteHeader(http.StatusCreated)
	})
}
