# Everything that a person does with this tree. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fleet test-guide matrix crash next-debian defects stories report gate-example snapshots check lint bench deb images setup clean

CARGO ?= cargo
HARNESS := $(CARGO) run --quiet --package harness --

# A snapshot changes when somebody means it to: `make snapshots`, then `git diff`.
export INSTA_UPDATE ?= no

# A machine waits for its services most of the time, and takes up to half a gigabyte.
export NEXTEST_TEST_THREADS ?= $(shell awk -v cores=$$(nproc) '/^MemAvailable/ { fit = int($$2 / 524288); most = 3 * cores; \
	print fit < 1 ? 1 : fit < most ? fit : most }' /proc/meminfo)
export RUST_TEST_THREADS ?= $(NEXTEST_TEST_THREADS)

# Sets this host up (an engine, the machines, the upgrader's programs) and goes on in the same shell. Cargo may be heard here:
# the first time it has something to do.
SET_UP = $(CARGO) build --package harness || exit; address=$$($(HARNESS) setup) || exit; if [ -n "$$address" ]; then export DOCKER_HOST="$$address"; fi; \
	UPGRADER_BINARIES=$$($(HARNESS) binaries) || exit; export UPGRADER_BINARIES

# Runs tests with nextest or, where that is not installed, with cargo: $(call RUN,selection,options of nextest,options of cargo test).
# Then looks whether they left anything. Their result is in $$result.
RUN = if $(CARGO) nextest --version >/dev/null 2>&1; \
	then $(CARGO) nextest run $${CI:+--profile ci} $(1) $(2) $(FILTER); \
	else $(CARGO) test $(1) $(FILTER) $(3); fi; result=$$?; \
	$(HARNESS) sweep --check || exit

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## watch a Debian machine go from XiVO 1.2.1 to 1.2.2 (DEBIAN=trixie for another release)
	@$(SET_UP); $(HARNESS) demo $(DEBIAN)

test: ## tests: units, and upgrades of real machines, a chosen part of the matrix among them (FILTER=name for some of them)
	@$(SET_UP); $(call RUN); exit $$result

test-fleet: ## fleets of machines, upgraded by Debian's Ansible with the role of docs/ansible
	@$(SET_UP); $(call RUN,--test fleet,--run-ignored all,-- --include-ignored); exit $$result

matrix: ## the whole matrix and its report (FILTER=name for some cells, SHARD=1/4 for a part of them, RUNS=10 until one of ten fails)
	@$(if $(SHARD),$(CARGO) nextest --version >/dev/null || { echo "SHARD needs cargo-nextest: cargo install --locked cargo-nextest"; exit 2; };) \
	$(SET_UP); for run in $$(seq $(or $(RUNS),1)); do rm -rf target/matrix/cells; $(if $(RUNS),echo "run $$run of $(RUNS)"; )\
	$(call RUN,--test matrix,--run-ignored all $(if $(SHARD),--partition slice:$(SHARD)),-- --include-ignored); \
	$(HARNESS) report || exit; [ $$result = 0 ] || exit $$result; done

crash: ## kill an upgrade everywhere, and see that it completes or never happened (ONLY=regex for some points, JOBS=4 for more at once, ON_HOST=1 for links)
	@$(SET_UP); $(HARNESS) crash $(if $(ONLY),--only '$(ONLY)') $(if $(JOBS),--jobs $(JOBS)) $(if $(ON_HOST),--on-host); result=$$?; \
	$(HARNESS) sweep --check && exit $$result

next-debian: ## a real upgrade to the next Debian, complete and undone, with packages from Debian's mirror
	@$(SET_UP); $(call RUN,--test crash,--run-ignored ignored-only --no-capture,-- --ignored); exit $$result

defects: ## upgrades to what vendors do wrong, each of which has to be caught (PART=name for some)
	@$(SET_UP); $(HARNESS) defects $(PART); result=$$?; $(HARNESS) sweep --check && exit $$result

stories: ## every story on every release of Debian, where `make test` tells most on one of them
	@$(SET_UP); $(call RUN,--test upgrades,--run-ignored all,-- --include-ignored); exit $$result

report: ## the report of the matrix that ran: target/matrix/report.html
	@$(CARGO) build --package harness && $(HARNESS) report

# What the new postgresql.conf of a new cluster has in it is another thing than what the old one has: see docs/gate.md.
gate-example: ## gate Debian's security suite: nginx and PostgreSQL of the last point release are upgraded to it
	@$(SET_UP); $(HARNESS) gate --candidate http://deb.debian.org/debian-security --suite '{debian}-security' \
		--from-repo http://deb.debian.org/debian --debian-sources --product docs/examples/debian-web/product.toml \
		--metapackage nginx,postgresql --differs 'content /etc/postgresql/15/main/postgresql.conf'

test-guide: ## follow docs/guide.md from a clean clone: every command, and what it prints
	@$(CARGO) test --quiet --package harness --test guide -- --include-ignored --nocapture --test-threads 1

snapshots: ## write the snapshots anew; review them with git diff
	@INSTA_UPDATE=always $(MAKE) --no-print-directory test matrix

check: lint ## what needs no machine: format, lints, unit tests, licences, shell scripts, hooks
	$(CARGO) test --quiet --workspace --lib --bins --test cli --test hooks
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install --locked cargo-deny"; exit 1; }
	$(CARGO) deny --log-level error check bans licenses sources
	@command -v shellcheck >/dev/null || { echo "shellcheck is missing: apt-get install shellcheck"; exit 1; }
	shellcheck images/*.sh .ci/run $$(find hooks -type f -perm -u+x -exec grep --files-with-matches '^#!/bin/.*sh' {} +)
	@command -v pyflakes3 >/dev/null || { echo "pyflakes3 is missing: apt-get install pyflakes3"; exit 1; }
	pyflakes3 hooks/lib hooks/tests harness/products/exchange harness/tests/report $$(find hooks -type f -perm -u+x -exec grep --files-with-matches '^#!/usr/bin/python3' {} +)

lint: ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings

bench: ## speed and outages beside the bare commands, memory, size (SUBJECT=speed for one of them)
	@$(SET_UP); $(HARNESS) bench $(SUBJECT)

deb: ## build xivo-upgrade_*.deb and let lintian look at it
	@$(SET_UP); file=$$($(HARNESS) deb) || exit; $(HARNESS) lintian "$$file" && echo "$$file"

images: setup ## the same as setup
setup: ## an engine (installed from Debian if there is none) and the machines' images
	@$(CARGO) build --package harness && $(HARNESS) setup >/dev/null

clean: ## remove our containers and images from the engine, and everything that was built
	@$(HARNESS) clean
	$(CARGO) clean
