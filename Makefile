# make install   the .venv with everything in it
# make serve     serve ./public, or DIR=...; also PORT= SHARE= USER_=name[:password] LISTEN= OPTIONS='--guest --read-only'
# make test      everything: ruff, mypy, import layers, tests (ARGS='-k config' for some of the tests)
# make lint      ruff and mypy only
# make conformance   smbtorture's smb2 suites        make bench   the load generator, beside Samba and impacket       (ARGS=...)
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
PACKAGES := smbclient samba samba-common-bin samba-testsuite acl attr

.PHONY: help install serve packages lint test ci conformance bench fuzz clean

help:
	@sed -n 's/^# //p' Makefile | head -7

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
ci: test

conformance: install packages
	@$(BIN)/python -m tests.conformance $(ARGS)

bench: install packages
	@$(BIN)/python -m bench.load $(ARGS)

fuzz: install
	@MILLPOND_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n 2 tests --timeout 0 -m hypothesis $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
