# What people run: up, down, test, bench. Everything else is cargo.
CARGO ?= cargo
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
BIN := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/release/isopod
export PATH := $(CURDIR)/target/tools/kubectl/usr/bin:$(PATH)

.PHONY: all build up down purge test test-vm bench lint deps clean

all: build

deps:
	@scripts/install-deps build

build: deps
	$(CARGO) build --release --package isopod

up: build
	$(BIN) check
	$(BIN) up
	$(BIN) demo
	@echo
	@echo "Try next:"
	@echo "  export KUBECONFIG=/var/lib/isopod/admin.kubeconfig"
	@echo "  kubectl get nodes,pods,services -A"
	@echo "  $(BIN) status"
	@echo "  make down"

down:
	$(BIN) down

purge:
	$(BIN) down --purge

test:
	@scripts/install-deps test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) deny --log-level error check licenses bans sources
	$(CARGO) test --release --workspace

# A node on control groups version 2 alone, in a virtual machine.
test-vm:
	@scripts/install-deps test
	@scripts/install-deps vm
	$(CARGO) test --release --package isopod --test vm

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

bench: build
	@scripts/install-deps test
	$(CARGO) bench --package isopod

clean:
	$(CARGO) clean
