# make up    sets up everything and runs a program in a sandbox
# make test  is the second command
# make help  lists the rest

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-print-directory

GO      = $(shell tools/setup go 2>/dev/null || echo go)
ARCH    = $(shell $(GO) env GOARCH)
static  = CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '-s -w'
withc   = CGO_ENABLED=1 $(GO) build -trimpath -tags netgo,osusergo,seccomp -ldflags '-s -w -linkmode external -extldflags "-static"'
tool    = $(GO) tool -modfile=tools/go.mod
lint    = $(GO) tool -modfile=tools/lint/go.mod golangci-lint

payload := internal/payload/files

.PHONY: setup build up down test check lint fmt vuln fuzz bench e2e conformance soak cross clean help

setup: ## install what building, running and testing need (Debian or Ubuntu, root)
	tools/setup test

build: ## bin/soulbox, with the other programs inside it
	@mkdir -p bin
	@echo "build: soulbox-agent"; $(static) -tags nethttpomithttp2 -o bin/soulbox-agent ./cmd/soulbox-agent
	@echo "build: soulbox-sentry (some minutes the first time)"; $(static) -o bin/soulbox-sentry ./cmd/soulbox-sentry
	@echo "build: soulbox-boot"; $(static) -o bin/soulbox-boot ./cmd/soulbox-boot
	@echo "build: soulbox-step"; $(static) -o bin/soulbox-step ./cmd/soulbox-step
	@echo "build: soulbox-buildkitd (some minutes the first time)"; cd cmd/soulbox-buildkitd && $(static) -o ../../bin/soulbox-buildkitd github.com/moby/buildkit/cmd/buildkitd
	@echo "build: soulbox-runc"; cd cmd/soulbox-runc && $(withc) -o ../../bin/soulbox-runc .
	@for p in soulbox-agent soulbox-sentry soulbox-boot soulbox-step soulbox-buildkitd soulbox-runc; do \
		gzip -nc bin/$$p > $(payload)/$$p.gz.next; \
		if cmp -s $(payload)/$$p.gz.next $(payload)/$$p.gz; then rm $(payload)/$$p.gz.next; else mv $(payload)/$$p.gz.next $(payload)/$$p.gz; fi; \
	done
	@echo "build: soulbox"; $(static) -o bin/soulbox ./cmd/soulbox

up: ## set up everything, start the server, run Python in a sandbox
	tools/setup run
	$(MAKE) build
	tools/up

down: ## stop the server that `make up` started; sandboxes go on
	tools/up stop

test: setup build ## every test, on real sandboxes, databases and SDKs
	tools/test

check: setup build lint vuln ## what CI asks of the source: format, lint, house rules, tidy modules
	tools/check

lint: ## static checks; `make fmt` mends the format
	$(lint) run ./...
	cd cmd/soulbox-runc && $(GO) tool -modfile=../../tools/lint/go.mod golangci-lint run --build-tags seccomp ./...

fmt: ## rewrite files in the house format
	$(lint) fmt

vuln: ## known vulnerabilities that our code can reach (VULNDB: a folder with a copy of the database)
	@$(if $(VULNDB),$(tool) govulncheck -db file://$(VULNDB) ./...,echo "vuln: skipped, VULNDB is not set")

fuzz: ## fuzz one target: make fuzz pkg=./proxy name=FuzzParseHost
	$(GO) test $(pkg) -run '^$$' -fuzz '^$(name)$$' -fuzztime 60s

bench: setup build ## the figures of docs/benchmarks.md, on this machine
	bench/run

soak: setup build ## half an hour of mixed load: make soak minutes=30
	bench/run -soak $(or $(minutes),30)m

e2e: setup build ## the published SDKs against a real server; writes docs/conformance.md
	e2e/run

cross: ## everything but soulbox-runc, which needs a C compiler for it, compiles for arm64 too
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/soulbox ./cmd/soulbox-agent ./cmd/soulbox-sentry ./cmd/soulbox-boot ./cmd/soulbox-step
	cd cmd/soulbox-buildkitd && CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null github.com/moby/buildkit/cmd/buildkitd

clean: ## remove what build made
	rm -rf bin $(payload)/*.gz e2e/node_modules e2e/.venv

help: ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
