# replblk: everything a developer or a newcomer runs. `make help` reads the texts after ##.
# No target but `databases` needs root, and all of them work on a clean clone: what they need is
# installed first, into .venv, and again only after pyproject.toml has changed.

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?=
SEED ?= 1
COUNT ?= 10000
PROFILE ?= all
REQUIRE ?=
MUTANTS ?=
ROUNDS ?= 300
EVERY ?= 1
FAULT ?= kill
KINDS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TESTS ?= tests
DEMO_FILE ?=
DEMO_PORT ?=
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-input
SOURCES := replblk nbd scripts tests
KERNEL_TESTS := $(wildcard tests/interop/test_kernel_*.py)

# The first Python of 3.11 or newer of those that people have; or the one that is named. The
# system's own comes first if it can make a virtual environment: distributions build it with PGO,
# and with such a one the daemons take a sixth less CPU time (docs/performance.md).
PYTHONS = $(or $(PYTHON),/usr/bin/python3 python3 python3.13 python3.12 python3.11)
FIND_PYTHON = for python in $(PYTHONS); do \
	case "$$python" in /usr/bin/python3) needs=', ensurepip';; *) needs=;; esac; \
	"$$python" -c "import sys$$needs; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 && break; \
	python=; done; \
	[ -n "$$python" ] || { echo "make: no Python 3.11 or newer found (tried: $(PYTHONS))." \
	"Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test interop fmt lint type check sim soak stories soak-kill crash-states kill-points disk-faults link-faults databases mutants fuzz bench docs clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | \
	while IFS='	' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

setup: $(VENV)/installed ## make .venv with .venv/bin/replblk in it

# A working .venv is kept, whoever made it; a broken or outdated one is made anew.
$(VENV)/python:
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	$(FIND_PYTHON); \
	echo "make: installing into $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	echo "make: $$python can't make a virtual environment;" \
	"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/python
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/installed
	@$(PIP) --editable '.[test]'
	@touch $@

demo: setup ## the main job on this machine, visibly: replicate, kill, fail over, return, compare
	@DEMO_FILE='$(DEMO_FILE)' DEMO_PORT='$(DEMO_PORT)' $(PY) scripts/demo.py

test: $(VENV)/installed-test ## the test suite (TESTS=path for a part)
	@$(PY) -m pytest -q $(if $(filter tests,$(TESTS)),$(KERNEL_TESTS:%=--ignore=%)) $(TESTS)

interop: $(VENV)/installed-test ## against the Linux kernel's DRBD in a virtual machine
	@$(PY) scripts/interop_setup.py
	@CI=true REPLBLK_INTEROP_TABLE=docs/interop.md $(PY) -m pytest -q -n 2 --dist loadfile $(KERNEL_TESTS)

fmt: $(VENV)/installed-test ## bring all code into the one format
	@$(PY) -m ruff format $(SOURCES)
	@$(PY) -m ruff check --fix $(SOURCES)

lint: $(VENV)/installed-test ## judge format and style
	@$(PY) -m ruff format --check $(SOURCES)
	@$(PY) -m ruff check $(SOURCES)

type: $(VENV)/installed-test ## judge the types
	@$(PY) -m mypy
	@$(PY) -m mypy --follow-imports=silent scripts/*.py
	@$(PY) -m mypy --follow-imports=silent -p scripts.bench

check: lint type ## before every commit: lint, type and the fast tests
	@$(PY) -m pytest -q tests/unit tests/property tests/contract

sim: setup ## one simulated run, told in full: make sim SEED=7 (same seed, same run)
	@$(PY) -m replblk.sim --seed $(SEED)

soak: setup ## many simulated runs: make soak COUNT=10000 SEED=1 (REQUIRE=1: see docs/simulation.md)
	@$(PY) -m replblk.sim --seed $(SEED) --count $(COUNT) --jobs $(JOBS) --profile $(PROFILE) \
	$(if $(REQUIRE),--require-marks)

stories: $(VENV)/installed-test ## short stories, a few things within milliseconds: make stories COUNT=10000
	@$(PY) -m tests.simulation.stories --count $(COUNT) --seed $(SEED)

fuzz: $(VENV)/installed-test ## spoiled bytes to every decoder: make fuzz COUNT=1000000 SEED=1
	@$(PY) -m tests.fuzz.run --count $(COUNT) --seed $(SEED)

soak-kill: $(VENV)/installed-test ## SIGKILL both daemons under a verifying writer: ROUNDS=300
	@$(PY) -m tests.processes.kill_rounds --rounds $(ROUNDS) --seed $(SEED)

crash-states: $(VENV)/installed-test ## power cuts out of a recorded story of two daemons: COUNT=5000
	@$(PY) -m tests.processes.crash_states --count $(COUNT) --seed $(SEED)

kill-points: $(VENV)/installed-test ## SIGKILL, or FAULT=eio, enospc, at every disk system call
	@$(PY) -m tests.processes.kill_points --every $(EVERY) --fault $(FAULT)

disk-faults: $(VENV)/installed-test ## disks that fail, hang or answer in part: ROUNDS=50
	@$(PY) -m tests.processes.disk_faults --rounds $(if $(filter file,$(origin ROUNDS)),50,$(ROUNDS)) \
	--seed $(SEED)

link-faults: $(VENV)/installed-test ## cut, reset, stall, flip, ... at a packet between the nodes: ROUNDS=100
	@$(PY) -m tests.processes.link_faults --rounds $(if $(filter file,$(origin ROUNDS)),100,$(ROUNDS)) \
	--seed $(SEED)

databases: $(VENV)/installed-test ## SQLite, PostgreSQL, MariaDB on the device, killed: ROUNDS=20
	@$(PY) -m tests.processes.databases --rounds $(if $(filter file,$(origin ROUNDS)),20,$(ROUNDS)) \
	--seed $(SEED) $(if $(KINDS),--kinds $(KINDS))

mutants: $(VENV)/installed-test ## plant every known bug: the checkers must find each (some minutes)
	@$(PY) -m tests.mutants.run $(MUTANTS)

bench: setup ## measure: replblk beside the plain disk, qemu-nbd and QEMU's mirror
	@$(PY) -m scripts.bench --page docs/performance.md $(BENCH_ARGS)

docs: setup ## write the documents that are made from tables
	@$(PY) -m replblk.admin.options_page > docs/configuration.md

clean: ## remove what was installed, built or remembered
	@rm -rf $(VENV) build dist ./*.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
