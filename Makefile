# Every task of this repository. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fleet test-guide matrix crash power failing-disks attacks next-debian defects all-debians report gate-example snapshots check lint msrv \
	tools bench deb images setup clean

CARGO ?= cargo
HARNESS := $(CARGO) run --quiet --package harness --

# Snapshots are written only on request: `make snapshots`, then `git diff`.
export INSTA_UPDATE ?= no

# Tests in parallel: 3 per core, and half a gigabyte of free memory for each. A machine mostly waits for its services.
export NEXTEST_TEST_THREADS ?= $(shell awk -v cores=$$(nproc) '/^MemAvailable/ { fit = int($$2 / 524288); most = 3 * cores; \
	print fit < 1 ? 1 : fit < most ? fit : most }' /proc/meminfo)
export RUST_TEST_THREADS ?= $(NEXTEST_TEST_THREADS)

# Prepare this host (container engine, machine images, the upgrader's programs), then continue in the same shell. The first cargo
# build is not quiet, because it takes minutes.
SET_UP = $(CARGO) build --package harness || exit; address=$$($(HARNESS) setup) || exit; if [ -n "$$address" ]; then export DOCKER_HOST="$$address"; fi; \
	UPGRADER_BINARIES=$$($(HARNESS) binaries) || exit; export UPGRADER_BINARIES

# Run tests with nextest, or with cargo where it is missing: $(call RUN,selection,options of nextest,options of cargo test).
# Then check that no container is left. The result of the tests is in $$result.
RUN = if $(CARGO) nextest --version >/dev/null 2>&1; \
	then $(CARGO) nextest run $${CI:+--profile ci} $(1) $(2) $(FILTER); \
	else $(CARGO) test $(1) $(FILTER) $(3); fi; result=$$?; \
	$(HARNESS) sweep --check || exit

# Programs below hooks/ whose first line names this interpreter.
scripts_of = $$(find hooks -type f -perm -u+x -exec grep --files-with-matches '^\#!/.*$(1)' {} +)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## watch a Debian machine being upgraded from XiVO 1.2.1 to 1.2.2 (DEBIAN=trixie for another release)
	@$(SET_UP); $(HARNESS) demo $(DEBIAN)

test: ## unit tests, upgrades of real machines, a selection of the matrix (FILTER=name for some tests, STORAGE=xfs for machines with such a disk)
	@$(SET_UP); $(call RUN); exit $$result

test-fleet: ## upgrade fleets of machines with Debian's Ansible and the role in docs/ansible
	@$(SET_UP); $(call RUN,--test fleet,--run-ignored all,-- --include-ignored); exit $$result

matrix: ## the whole matrix and its report (FILTER=name for some cells, SHARD=1/4 for a quarter, RUNS=10 to repeat until one fails, STORAGE=btrfs for machines with such a disk)
	@$(if $(SHARD),$(CARGO) nextest --version >/dev/null || { echo "SHARD needs cargo-nextest: cargo install --locked cargo-nextest"; exit 2; };) \
	$(SET_UP); for run in $$(seq $(or $(RUNS),1)); do rm -rf target/matrix/cells; $(if $(RUNS),echo "run $$run of $(RUNS)"; )\
	$(call RUN,--test matrix,--run-ignored all $(if $(SHARD),--partition slice:$(SHARD)),-- --include-ignored); \
	$(HARNESS) report || exit; [ $$result = 0 ] || exit $$result; done

crash: ## interrupt an upgrade at every injection point (ONLY=regex for some points, JOBS=4 for more at once, STORAGE=host for hard links)
	@$(SET_UP); $(HARNESS) crash $(if $(ONLY),--only '$(ONLY)') $(if $(JOBS),--jobs $(JOBS)); result=$$?; \
	$(HARNESS) sweep --check && exit $$result

next-debian: ## upgrade a machine to the next Debian and roll it back, with packages from Debian's mirror
	@$(SET_UP); $(call RUN,--test crash,--run-ignored ignored-only --no-capture,-- --ignored); exit $$result

defects: ## upgrade to defective releases; each defect must be caught (PART=name for some)
	@$(SET_UP); $(HARNESS) defects $(PART); result=$$?; $(HARNESS) sweep --check && exit $$result

power: ## cut the power of machines with a disk of their own, anywhere in an upgrade (FILESYSTEM=xfs for one kind, STATES=400 for more, RECORDED=100 for more with lost writes, JOBS=4)
	@$(SET_UP); $(HARNESS) power $(if $(FILESYSTEM),--filesystem $(FILESYSTEM)) $(if $(STATES),--states $(STATES)) $(if $(RECORDED),--recorded $(RECORDED)) $(if $(JOBS),--jobs $(JOBS)); \
	result=$$?; $(HARNESS) sweep --check && exit $$result

failing-disks: ## upgrade and roll back machines whose disk fails, is full or becomes read-only, in each step (ONLY='read-only' for some, JOBS=4)
	@$(SET_UP); $(HARNESS) failing-disks $(if $(JOBS),--jobs $(JOBS)) $(if $(ONLY),'$(ONLY)'); result=$$?; $(HARNESS) sweep --check && exit $$result

attacks: ## attack upgrades and rollbacks from an unprivileged account (PART=name for some, DEBIAN=trixie for one release, JOBS=4)
	@$(SET_UP); $(HARNESS) attacks $(if $(DEBIAN),--debian $(DEBIAN)) $(if $(JOBS),--jobs $(JOBS)) $(PART); attacks=$$?; result=0; \
	$(if $(PART),,export ATTACK=all; $(call RUN,--test upgrades,--run-ignored all hostile_owner,hostile_owner -- --include-ignored);) \
	$(HARNESS) sweep --check && [ $$attacks = 0 ] && exit $$result

all-debians: ## every scenario on every release of Debian; `make test` runs most on one of them
	@$(SET_UP); $(call RUN,--test upgrades,--run-ignored all,-- --include-ignored); exit $$result

report: ## the report of the cells that ran: target/matrix/report.html
	@$(CARGO) build --package harness && $(HARNESS) report

# A new cluster gets a postgresql.conf that differs from the one of an old cluster: see docs/gate.md.
gate-example: ## gate Debian's security suite: nginx and PostgreSQL of the last point release are upgraded to it
	@$(SET_UP); $(HARNESS) gate --candidate http://deb.debian.org/debian-security --suite '{debian}-security' \
		--from-repo http://deb.debian.org/debian --debian-sources --product docs/examples/debian-web/product.toml \
		--metapackage nginx,postgresql --differs 'content /etc/postgresql/15/main/postgresql.conf'

test-guide: ## run every command of docs/guide.md from a clean clone, and compare what it prints
	@$(CARGO) test --quiet --package harness --test guide -- --include-ignored --nocapture --test-threads 1

snapshots: ## write all snapshots again; review them with git diff
	@INSTA_UPDATE=always $(MAKE) --no-print-directory test matrix

check: tools lint msrv ## everything that needs no machine: format, lints, unit tests, rustdoc, licences, scripts
	$(CARGO) test --quiet --workspace --lib --bins --test cli --test hooks
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --quiet --no-deps --document-private-items --workspace
	$(CARGO) deny --log-level error check bans licenses sources
	shellcheck images/*.sh .ci/* $(call scripts_of,sh$$)
	pyflakes3 hooks/lib hooks/tests harness/products/exchange harness/tests/report $(call scripts_of,python3)

lint: ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings

# `incompatible_msrv`, which is part of `make lint`, knows the standard library. A build with the toolchain itself also knows the dependencies.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: ## build with the oldest supported Rust, if rustup has it
	@if toolchain=$$(rustup toolchain list 2>/dev/null | grep -o '^$(MSRV)[^ ]*'); \
	then $(CARGO) +$$toolchain check --quiet --workspace --all-targets --target-dir target/msrv; \
	else echo "Rust $(MSRV) is not installed: only clippy's incompatible_msrv checks it (rustup toolchain install $(MSRV))"; fi

tools: ## install the tools of `make check` that are missing: shellcheck, pyflakes3, cargo-deny
	@.ci/install-tools

bench: ## speed and outages compared with bare commands, memory, size (SUBJECT=speed for one of them)
	@$(SET_UP); $(HARNESS) bench $(SUBJECT)

deb: ## build xivo-upgrade_*.deb and check it with lintian
	@$(SET_UP); file=$$($(HARNESS) deb) || exit; $(HARNESS) lintian "$$file" && echo "$$file"

images: setup ## the same as setup
setup: ## a container engine (installed from Debian if there is none) and the images of the machines
	@$(CARGO) build --package harness && $(HARNESS) setup >/dev/null

clean: ## remove our containers and images from the engine, and everything that was built
	@$(HARNESS) clean
	$(CARGO) clean
