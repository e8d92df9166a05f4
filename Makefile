# Everything a newcomer needs is `make demo` and `make test`.
# On a fresh Debian or Ubuntu with Rust, both install PostgreSQL when it is missing.

CARGO ?= cargo
# Integration tests start three servers and three daemons each: so many at a time.
TEST_THREADS ?= 2
# For `make soak` and `make chaos`. Empty: a seed from the clock.
SEED ?=
SECONDS ?= 60
NODES ?= 3
FAULTS ?=
# For `make sim`: how many runs, and from which seed (empty: from the clock).
N ?= 20000
# For `make matrix`.
MAJORS ?= 16 17 18
# For `make counts`: 1 makes what is counted now the table.
ACCEPT ?=
# For `make micro`: a part of a path's name, `capture/` or `tpc-b`.
PATHS ?=

# A profile of its own, which compiles quickly: optimized code takes several times as long to build.
BUILD_DEMO = $(CARGO) build --profile demo -p everywrite-node -p everywrite-tests --bin everywrite --bin demo
DEMO = $${CARGO_TARGET_DIR:-target}/demo/demo

export SEED SECONDS NODES FAULTS

.DEFAULT_GOAL := help
.PHONY: help build demo demo-down test sim mutations soak chaos bench verify-bench wan scale floor micro counts matrix fmt lint clean postgres valgrind

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the daemon, optimized: target/release/everywrite
	$(CARGO) build --release -p everywrite-node

demo: postgres ## three servers, three nodes, writes at all three at once; the cluster stays up
	$(BUILD_DEMO)
	@$(DEMO) up

demo-down: ## end the demo and remove ./demo-data
	@if [ -e demo-data ]; then \
		$(BUILD_DEMO) && $(DEMO) down; \
	else echo "no demo is up"; fi

# The whole workspace each time, and with its tests: another choice of packages has other features of dependencies,
# and compiles nearly everything once more.
test: postgres ## format, lints, unit, property and integration tests, instruction counts, short soaks, chaos and bench
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) build --workspace --bins --tests
	$(CARGO) test --workspace --lib --bins --no-fail-fast -- --test-threads=$(TEST_THREADS)
	$(CARGO) test --workspace --doc
	$(MAKE) counts ACCEPT=
	CARGO="$(CARGO)" TEST_THREADS=$(TEST_THREADS) tests/stories.sh

sim: ## N= simulated clusters from SEED= on: the daemon's real code, any network, any clocks, crashes
	EVERYWRITE_N=$(N) EVERYWRITE_START=$(SEED) $(CARGO) test -q --profile sim -p everywrite-node --test simulation many_seeds -- --ignored

mutations: ## breaks the code in one way after the other: some simulated cluster has to fail within a minute (ONLY=name)
	@ONLY="$(ONLY)" EVERYWRITE_START=$(SEED) CARGO="$(CARGO)" node/tests/mutations/run.sh

soak: postgres ## random transactions, kill -9 of random processes, then every write accounted for (SEED=, SECONDS=)
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin soak
	$(CARGO) run --release -p everywrite-tests --bin soak

chaos: postgres ## the same with everything that can go wrong at once: partitions, clocks, full and slow disks (SEED=, SECONDS=, NODES=5)
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin soak
	@$${CARGO_TARGET_DIR:-target}/release/soak chaos

bench: postgres ## Everywrite and PostgreSQL's own logical replication in turn
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin bench
	@$${CARGO_TARGET_DIR:-target}/release/bench

verify-bench: postgres ## how fast tables are compared while they are written, and what that costs the writers
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin verify_bench
	@$${CARGO_TARGET_DIR:-target}/release/verify_bench

wan: postgres ## both replicate over a slow wire (root; RTT=20,80,200 LOSS=0,1 CONGESTION=cubic)
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin wan
	@$${CARGO_TARGET_DIR:-target}/release/wan $(if $(RTT),--rtt $(RTT)) $(if $(LOSS),--loss $(LOSS)) $(if $(CONGESTION),--congestion $(CONGESTION))

scale: postgres ## what a node costs with 3 to 48 sites, and a check at five real ones
	$(CARGO) build --release -p everywrite-node -p everywrite-tests --bin everywrite --bin scale
	@$${CARGO_TARGET_DIR:-target}/release/scale --check

floor: postgres ## what COPY, unnest, the walsender, the link and the disk do by themselves (SCALE=, MAJORS="15 18")
	$(CARGO) build --release -p everywrite-tests --bin floor
	@MAJORS="$(if $(filter file,$(origin MAJORS)),,$(MAJORS))" $${CARGO_TARGET_DIR:-target}/release/floor

micro: ## the hot paths one by one, in seconds (PATHS="capture/")
	$(CARGO) bench -p everywrite-micro --bench micro -- $(PATHS)

counts: valgrind ## the hot paths one by one, in instructions, against micro/counts.txt (ACCEPT=1)
	$(CARGO) build --profile counts -p everywrite-micro --bin counts
	@$${CARGO_TARGET_DIR:-target}/counts/counts $(if $(ACCEPT),--accept)

matrix: postgres ## the integration tests on other PostgreSQL majors (MAJORS="16 17 18")
	tests/matrix.sh $(MAJORS)

fmt: ## format the code
	$(CARGO) fmt --all

lint: ## what the compiler and clippy have to say
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

clean: demo-down ## end the demo, remove what was built
	$(CARGO) clean

postgres:
	@tests/install-postgres.sh

valgrind:
	@tests/install-postgres.sh valgrind
