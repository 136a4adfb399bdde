# make install   the .venv with everything in it
# make serve     serve ./public, or DIR=...; also PORT= SHARE= USER_=name[:password] LISTEN= OPTIONS='--guest --read-only'
# make test      everything: ruff, mypy, import layers, tests (ARGS='-k config' for some of the tests)
# make lint      ruff and mypy only
# make conformance   smbtorture's smb2 suites        make bench   the load generator, beside Samba and impacket       (ARGS=...)
# make combinations   the tests from outside in each named combination of port, data path, pool mode and server mode (ARGS='pocket plain')
# make compile   the same sources compiled by mypyc, in build/compiled    make test-compiled   tests of that form
# make claims    the published designs' claims on this code: formats, pools, fragmentation    make scale   with 1 to 500 clients, beside Samba
# make profile   where a worker's time goes: a flame graph of WORKLOAD='read 4K w16' PROTECTION=plain
# make shortfalls   the same as tables, of the rows that are behind Samba
# make figures   every drawing and README's table anew from the raw data in bench/figures: bench, claims and scale make these
# make fuzz      property tests, many more examples
# make clean     remove the .venv and everything made

PYTHON ?= python3
DIR ?= ./public
PORT ?= 4450
SHARE ?=
USER_ ?=
LISTEN ?=
OPTIONS ?=
ARGS ?=
EXAMPLES ?= 20000

VENV := .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.installed
COMPILED := build/compiled
WORKLOAD ?= read 4K w16
PROTECTION ?= plain
PACKAGES := smbclient samba samba-common-bin samba-testsuite samba-vfs-modules acl attr btrfs-progs iptables

# Tests start servers by the hundred, and each would compile all of its sources again: a second instead of 0.4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install spy serve packages lint test ci conformance bench fuzz clean compile test-compiled profile shortfalls claims scale figures combinations

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

install: $(MARK)

$(MARK): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Millpond needs Python 3.11 or later: name one with 'make PYTHON=python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

serve: install
	@test "$(DIR)" != ./public || mkdir -p ./public
	@exec $(BIN)/millpond serve "$(DIR)" --port "$(PORT)" $(if $(SHARE),--share "$(SHARE)") $(if $(LISTEN),--listen "$(LISTEN)") \
	  $(foreach user,$(USER_),--user "$(user)") $(OPTIONS)

packages:
	@tests/packages.sh $(PACKAGES)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: lint packages
	@$(BIN)/python -m pytest -n 2 $(ARGS)

# What .ci/run calls, which bounds it.
ci: test test-compiled

# A copy, so that the tree itself stays as it is: what is imported from it is always what stands in its files.
compile: install
	@$(BIN)/python -c 'import sys, sysconfig, pathlib; sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' \
	  || { echo "Python's C headers are missing: apt-get install python3-dev gcc" >&2; exit 1; }
	@echo "Compiling into $(COMPILED): about three minutes ..."
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	@cp -R authd bench deploy docs pools smbd srvsvc tests workers setup.py setup.cfg pyproject.toml README.md $(COMPILED)
	@cd $(COMPILED) && MILLPOND_COMPILE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2 >build.log 2>&1 \
	  || { tail -n 20 build.log >&2; exit 1; }

# From outside and through the core's own interface: unit tests that put fakes in the place of classes need the pure form.
test-compiled: compile packages
	@cd $(COMPILED) && MILLPOND_COMPILED=1 $(CURDIR)/$(BIN)/python -m pytest -n 2 tests/test_compiled.py tests/process tests/fuzz \
	  tests/interop/test_smbclient.py tests/interop/test_smbprotocol.py tests/smbd/smb2 $(ARGS)

combinations: install packages
	@$(BIN)/python -m tests.combinations $(ARGS)

# py-spy comes with an extra of its own: nothing else needs it.
spy: install
	@test -x $(BIN)/py-spy || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,profile]'

profile: spy packages
	@$(BIN)/python -m bench.profile --workload "$(WORKLOAD)" --protection "$(PROTECTION)" $(ARGS)

conformance: install packages
	@$(BIN)/python -m tests.conformance $(ARGS)

bench: install packages
	@$(BIN)/python -m bench.load $(ARGS)

shortfalls: spy packages
	@command -v perf >/dev/null || tests/packages.sh linux-perf
	@$(BIN)/python -m bench.shortfalls $(ARGS)

claims: install packages
	@$(BIN)/python -m bench.claims $(ARGS)

scale: install packages
	@$(BIN)/python -m bench.scale --directory bench/figures $(ARGS)

figures: install
	@$(BIN)/python -m bench.redraw $(ARGS)

fuzz: install
	@MILLPOND_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n 2 tests --timeout 0 -m hypothesis $(ARGS)

clean:
	find authd pools smbd srvsvc workers -name '*.so' -delete
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
