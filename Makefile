# Needs Go, git and make; nothing else.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X github.com/millrace/millrace/cmd/internal/cli.version=$(VERSION)
FUZZTIME ?= 10s
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2

export CGO_ENABLED = 0

.DEFAULT_GOAL := help
.PHONY: help build test race demo cluster cluster-down cluster-clean soak chaos simulate planted proof strace-proof interop fuzz lint

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/millrace
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/millrace ./cmd/millrace

test: ## run all tests (no C compiler needed)
	$(GO) test -count=1 -timeout 10m $(GOTESTFLAGS) ./...

race: export CGO_ENABLED = 1
race: ## run all tests under the race detector (needs a C compiler)
	$(GO) test -count=1 -race -timeout 30m ./...

demo: build ## 3 brokers, 50,000 real events, a killed leader, nothing lost
	@$(GO) build -trimpath -o bin/demo ./cmd/demo
	@bin/demo -millrace bin/millrace

cluster: build ## leave three brokers running, with their data under .cluster/
	@$(GO) run ./cmd/cluster -millrace bin/millrace -dir .cluster up

cluster-down: ## stop the three brokers gracefully; their data stays
	@$(GO) run ./cmd/cluster -dir .cluster down

cluster-clean: ## stop the three brokers and remove their data
	@$(GO) run ./cmd/cluster -dir .cluster clean

soak: build ## kill, stop and restart brokers under load, for 10 minutes or more
	$(GO) run ./cmd/soak -millrace bin/millrace

chaos: build ## the fault catalogue against real brokers, in about 15 minutes (Linux, root, nftables)
	@$(GO) build -trimpath -o bin/chaos ./cmd/chaos
	@bin/chaos -millrace bin/millrace $(if $(ONLY),-only $(ONLY))

SEEDS ?= 1000
SEED  ?= 0

simulate: ## whole clusters on virtual time, with faults: SEEDS (1000) of them, from SEED on
	@testdata/scripts/simulate $(SEEDS) $(SEED)

planted: export GOMAXPROCS = 1
planted: export GODEBUG = asyncpreemptoff=1
planted: ## put each planted bug into the product and let the simulator find it
	@set -e; for bug in commit-clamp-off sync-left-out check-before-apply incarnation-check-off; do \
	  MILLRACE_PLANTED_BUG=$$bug $(GO) test -count=1 -timeout 60m -v -tags plantedbug -run TestPlantedBugIsFound ./cmd/internal/simulation -seed 1; \
	done

proof: ## produce a gigabyte and prove that the segment files are the log
	$(GO) test -count=1 -run TestSegmentsAreTheLog -v ./cmd/internal/durability -proof-megabytes 1024

strace-proof: build ## prove by system calls: a sync before each answer, sendfile for consumers
	@testdata/scripts/strace-proof bin/millrace

interop: ## produce and consume with kcat (librdkafka), which it installs, in all codecs
	$(GO) test -count=1 -tags interop -timeout 5m $(GOTESTFLAGS) ./cmd/internal/interop

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

lint: ## gofmt, go vet (also for darwin and windows) and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
