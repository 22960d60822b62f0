# README.md says what each target is for. A line a target; the work is in Go.
SHELL   := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
GO      ?= go
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w'
IMAGE   ?= airlock-sidecars:latest
# The race detector needs a C compiler; without one the tests run without it.
RACE    ?= $(if $(shell command -v $(shell $(GO) env CC)),-race)

# Its runtime sleeps for a second at the end of each process, unless it is told not to.
export GORACE ?= atexit_sleep_ms=0

.PHONY: all build image demo test test-long vet e2e bench clean

all: build

build:
	$(BUILD) -o bin/ ./cmd/sidecars ./cmd/hostctl

CERTS ?= /etc/ssl/certs/ca-certificates.crt
image: build
	rm -rf bin/image && mkdir -p bin/image/etc/ssl/certs bin/image/run/airlock bin/image/var/lib/airlock
	cp bin/sidecars bin/image/ && if [ -f $(CERTS) ]; then cp $(CERTS) bin/image/etc/ssl/certs/; fi
	touch bin/image/run/airlock/.keep bin/image/var/lib/airlock/.keep
	docker build -t $(IMAGE) -f Dockerfile bin/image

demo: build
	$(BUILD) -o bin/ ./e2e/demo
	bin/demo -bin bin

# Packages that compute in one goroutine: the race detector makes them ten times as slow. The daemons' tests have it on, and use them from many.
PLAIN   := /internal/(secrets|unpack|promptinjection)$$
SUITE    = ( $(GO) test $(1) -timeout 20m -json $$($(GO) list ./... | grep -E '$(PLAIN)') && \
	  $(GO) test $(RACE) $(1) -timeout 40m -json $$($(GO) list ./... | grep -vE '$(PLAIN)') ) | $(GO) run ./internal/testsum
test:
	$(call SUITE,-short)

test-long:
	$(call SUITE)

vet:
	$(GO) vet ./... && cd internal/jsonschema && $(GO) vet ./...
	$(GO) vet -tags e2e ./... && GOOS=darwin $(GO) vet ./cmd/hostctl && $(GO) tool staticcheck -tags e2e ./... && $(GO) mod tidy -diff && test -z "$$(gofmt -l .)"

e2e: build
	$(GO) test $(RACE) -tags e2e -count=1 -timeout 20m ./e2e/... ./hostctl/docker/...

bench: build
	$(GO) test -run '^$$' -bench . -benchmem ./bench/...

clean:
	rm -rf bin
