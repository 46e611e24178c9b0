module github.com/httpretry/httpretry/cmd/batchinfer

go 1.26

replace github.com/httpretry/httpretry => ../..

require (
	github.com/go-logr/logr v1.4.4
	github.com/httpretry/httpretry v0.0.0
	github.com/schollz/progressbar/v3 v3.19.1
	go.uber.org/goleak v1.3.0
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/term v0.45.0
	k8s.io/klog/v2 v2.140.0
)

require (
	github.com/mitchellh/colorstring v0.0.0-20190213212951-d06e56a500db // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
