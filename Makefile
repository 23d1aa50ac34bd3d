# SPDX-License-Identifier: MIT
# What there is to do here. On a fresh Debian 12 with git, make and Python, each target installs
# what it needs and says so.

SHELL := /bin/bash -eo pipefail
.NOTPARALLEL:

PYTHON3 ?= python3
VENV := .venv
LAB := tests/vm/lab
TREE := build/tree
# For the unit tests: the C compiler they hold the library against, and rsync. They make the man
# pages, too.
OWN_PACKAGES := gcc git libc6-dev rsync
PACKAGE_LISTS = tests/vm/apt-packages.txt docs/man/apt-packages.txt

.PHONY: help
help:  ## This text
	@echo "usage: make TARGET"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: run
run: setup $(TREE)  ## The first demo: real programs on a file system in a VM, and what Duet tells
	$(LAB) run --disk-from $(TREE) --fs ext4 --smp 2 --env NO_COLOR --env COLORTERM -- \
		python examples/first_light.py /mnt/duet

.PHONY: test
test: PACKAGE_LISTS += debian/apt-packages.txt tests/tasks/apt-packages.txt
test: PACKAGE_LISTS += tests/stress/apt-packages.txt
# Tests of tasks keep one processor busy for as long as the longest job of kernel-test does another.
test: BESIDE = task-test\t$(TASK_TEST) && $(TASK_TEST) --as-user\n
test: setup lint unit lab-test deb kernel-test  ## All of these, and task-test: what a change has to pass

.PHONY: test-all
test-all: PACKAGE_LISTS += debian/apt-packages.txt tests/install/apt-packages.txt
test-all: JOBS = all
test-all: test test-debug-short test-install-short  ## On every file system, on whole systems: hours

.PHONY: lint
lint: setup  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

.PHONY: unit
unit: setup  ## The tests that need no Duet
	$(VENV)/bin/pytest
# A process of its own: Dask leaves threads behind, with which others cannot fork.
	$(VENV)/bin/pytest tests/cluster

# Loop devices want root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
# Nothing is left behind that is root's.
TASK_TEST = $(ROOT) env PYTHONDONTWRITEBYTECODE=1 $(VENV)/bin/pytest -p no:cacheprovider tests/tasks

.PHONY: abi
abi: packages  ## Write tests/data/abi.json anew, after a change of driver/uapi/duet.h
	$(PYTHON3) tests/uapi.py

.PHONY: task-test
task-test: PACKAGE_LISTS += tests/tasks/apt-packages.txt
task-test: setup  ## Maintenance on real file systems, as root and as a user
	$(TASK_TEST)
	$(TASK_TEST) --as-user

.PHONY: test-tasks
test-tasks: PACKAGE_LISTS += tests/tasks/apt-packages.txt
test-tasks: setup  ## The same with thousands of trees and minutes of races: hours
	$(TASK_TEST) --long
	$(TASK_TEST) --long --as-user

.PHONY: lab-test
lab-test: setup  ## The tests of the lab itself; they boot machines
	$(VENV)/bin/pytest tests/vm/test_lab.py

.PHONY: kernel-test
kernel-test: PACKAGE_LISTS += tests/tasks/apt-packages.txt tests/stress/apt-packages.txt
kernel-test: setup build/fuzz  ## On each kernel of the lab: a strict build, then tests/kernel in VMs
	@for series in $$($(LAB) kernels); do (set -x; $(LAB) build --check --kernel $$series); done
	{ printf '$(BESIDE)'; tests/kernel/jobs $(JOBS); } | tests/pool

.PHONY: analyze
analyze: setup  ## The strict builds, then coccicheck over the module, and smatch where there is one
	@for series in $$($(LAB) kernels); do (set -x; $(LAB) build --check --kernel $$series); done
	$(LAB) analyze --kernel $$($(LAB) kernels | tail -n 1)

# Of tests/kernel/jobs.
JOBS ?= some

# What test-debug runs: options and tests of pytest.
PYTEST_ARGS ?= tests/kernel

.PHONY: test-debug
test-debug: setup  ## tests/kernel in a kernel that looks for bugs; slow, and it builds that first
	$(LAB) run --kernel debug --fs ext4 --smp 2 --mem 2048 --timeout 5400 -- \
		python -m pytest $(PYTEST_ARGS)
	$(LAB) run --kernel debug --fs ext4 --smp 8 --mem 2048 --parallel --timeout 1200 -- \
		python -m pytest tests/kernel/test_cores.py

.PHONY: test-debug-short
test-debug-short: PYTEST_ARGS = tests/kernel/test_life.py tests/kernel/test_events.py tests/kernel/test_told.py
test-debug-short: test-debug  ## The same with some of the tests

# The same seed makes the same calls; 0x5eed, say, or empty for another one each time.
FUZZ_SEED ?=
FUZZ_CALLS ?= 200000

.PHONY: fuzz
fuzz: setup build/fuzz  ## Calls that nobody would make, FUZZ_CALLS of them from FUZZ_SEED, in that kernel
	$(LAB) run --kernel debug --fs ext4 --smp 2 --mem 2048 --timeout 7200 \
		--env FUZZ_SEED=$(FUZZ_SEED) --env FUZZ_CALLS=$(FUZZ_CALLS) -- \
		python -m pytest tests/kernel/test_fuzz.py

# Of make stress: a kernel of the lab, debug too; how long, in seconds; and options of
# tests/stress/stress.py, as --seed.
STRESS_KERNEL ?= 6.12
STRESS_SECONDS ?= 1200
STRESS_ARGS ?=
# slab_nomerge: or the kernel could not say what is left in a cache when that goes.
STRESS = $(LAB) run --fs ext4 --disk-size 2048 --timeout 7200

.PHONY: stress
stress: PACKAGE_LISTS += tests/stress/apt-packages.txt
stress: setup  ## Everything at once on four file systems in little memory, 20 minutes: then, is it so?
	$(STRESS) --kernel $(STRESS_KERNEL) --smp 8 --parallel --append slab_nomerge \
		--mem $(if $(filter debug,$(STRESS_KERNEL)),2048,1024) -- \
		python tests/stress/stress.py --still --seconds $(STRESS_SECONDS) $(STRESS_ARGS)

# Of make test-kcsan, in seconds.
KCSAN_SECONDS ?= 300

.PHONY: test-kcsan
test-kcsan: setup  ## What is read and written without a lock, in a kernel that looks for data races
	$(LAB) run --kernel kcsan --fs ext4 --smp 2 --parallel --mem 1024 --timeout 3600 -- \
		python tests/stress/hammer.py --seconds $(KCSAN_SECONDS)

.PHONY: faults
faults: setup  ## Each allocation of the module fails in turn, in the debug kernel, which it builds first
	$(LAB) run --kernel debug --fs ext4 --smp 2 --mem 2048 --timeout 7200 -- \
		python -m pytest tests/kernel/test_faults.py

# Options of tests/bench/bench.py, and of tests/bench/io_saved.py.
BENCH_ARGS ?=

.PHONY: bench
bench: PACKAGE_LISTS += tests/bench/apt-packages.txt
bench: setup  ## What Duet costs, and its peers: tables in build/bench
	$(VENV)/bin/python tests/bench/bench.py $(BENCH_ARGS)

# Options of tests/bounds/bounds.py.
BOUNDS_ARGS ?=

.PHONY: bounds
bounds: setup  ## How long interrupts or preemption are off, whatever a user makes long
	$(VENV)/bin/python tests/bounds/bounds.py $(BOUNDS_ARGS)

.PHONY: bench-cluster
bench-cluster: setup  ## What a cluster saves that reads first what is in memory, in a model: docs/cluster.md
	$(VENV)/bin/python tests/bench/cluster.py $(BENCH_ARGS)

.PHONY: bench-io
bench-io: setup  ## How much I/O maintenance saves with Duet: docs/io-saved.md; hours
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[test,bench]'
	$(VENV)/bin/python tests/bench/io_saved.py $(BENCH_ARGS)

.PHONY: man
man: setup  ## The man pages duet(4) and duet(8), in build/man
	$(VENV)/bin/python docs/man/build.py build/man

# The Python that is to run what make install installs, and where that goes.
PYTHON ?= $(PYTHON3)
PREFIX ?= /usr/local
DESTDIR ?=
INSTALL = $(PYTHON) packaging/install.py --destdir "$(DESTDIR)" --prefix "$(PREFIX)"

.PHONY: install
install: setup  ## Everything, and the module for DKMS; see docs/install.md
	$(INSTALL) install

.PHONY: uninstall
uninstall:  ## What make install installed, with the same DESTDIR and PREFIX
	$(INSTALL) uninstall

# The developers have no mail address, which lintian would like them to have.
.PHONY: deb
deb: PACKAGE_LISTS += debian/apt-packages.txt
deb: setup build/deb/source  ## The Debian packages, in build/deb, looked at by lintian
	cd build/deb/source && env PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		PYTHON=$(CURDIR)/$(VENV)/bin/python dpkg-buildpackage -us -uc -b
	lintian --info --fail-on error,warning --allow-root \
		--suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog build/deb/*.changes

# For root as well where the clone is a user's, whose configuration git would not read.
.PHONY: build/deb/source
build/deb/source:
	rm -rf build/deb
	mkdir -p build/deb/source
	git -c safe.directory=$(CURDIR) ls-files -z | xargs -0 cp --parents -t build/deb/source

# Options of tests/install.
INSTALL_ARGS ?=

.PHONY: test-install
test-install: PACKAGE_LISTS += tests/install/apt-packages.txt
test-install: deb  ## The Debian packages on whole Debian systems, as root
	$(VENV)/bin/python tests/install/images.py
	tests/install/jobs $(INSTALL_ARGS) | tests/pool

.PHONY: test-install-short
test-install-short: INSTALL_ARGS = --natively --no-upgrade
test-install-short: test-install  ## The same in minutes: apt runs before the system boots, no upgrade

.PHONY: pictures
pictures: setup $(TREE)  ## The pictures of the administrator's screen in docs/pictures
	$(LAB) run --kernel 6.12 --disk-from $(TREE) --fs ext4 --smp 2 --share docs/pictures \
		--timeout 1200 -- python docs/pictures/make.py /mnt/duet /share

.PHONY: examples
examples: build/examples/watch  ## The example in C, in build/examples

.PHONY: setup
setup: packages $(VENV)/.stamp  ## Debian packages, and .venv with what pyproject.toml lists

.PHONY: clean
clean:  ## Remove what was made here (the lab's cache stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find docs pyduet tui examples tests -name __pycache__ -prune -exec rm -rf {} +

.PHONY: packages
packages:
	@command -v dpkg-query >/dev/null || { \
		echo "make: this is no Debian; install the like of $(PACKAGE_LISTS)," \
			"and run the commands of this Makefile by hand" >&2; exit 1; }; \
	wanted="$(OWN_PACKAGES) $$(sed 's/#.*//' $(PACKAGE_LISTS) | tr '\n' ' ')"; \
	$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || wanted="$$wanted python3-venv"; \
	installed=" $$(dpkg-query -W -f='$${db:Status-Status} $${Package}\n' | \
		sed -n 's/^installed //p' | tr '\n' ' ') "; \
	missing=; \
	for package in $$wanted; do \
		case "$$installed $$missing " in *" $$package "*) ;; *) missing="$$missing $$package";; esac; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	root=; \
	if [ "$$(id -u)" != 0 ]; then \
		command -v sudo >/dev/null || { \
			echo "make: as root, please: apt-get install --no-install-recommends$$missing" >&2; \
			exit 1; }; \
		root=sudo; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	$$root apt-get update -q; \
	$$root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends $$missing

$(VENV)/.stamp: pyproject.toml | packages
	@echo "Installing into $(VENV): pyduet, and what pyproject.toml lists for it and its tests"
	$(PYTHON3) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check --use-pep517 -e '.[test]'
	@touch $@

build/examples/%: examples/%.c driver/uapi/duet.h | packages
	@mkdir -p $(@D)
	$(CC) -O2 -Wall -Wextra -Werror -Idriver/uapi -o $@ $<

# tests/kernel/test_fuzz.py would build it in the guest, which takes a minute.
build/fuzz: $(wildcard tests/fuzz/*.[ch]) driver/uapi/duet.h | packages
	@mkdir -p $(@D)
	$(CC) -O2 -Wall -Wextra -Werror -Idriver/uapi -o $@ $(filter %.c,$^) -lpthread

$(TREE): examples/sample_tree.py | packages
	$(PYTHON3) examples/sample_tree.py $@
