# From a fresh Debian machine to the main job and the proofs; each target sets up what it needs, once.
#
# What was done leaves a stamp in .setup/, and is done again when what it was made from has changed, or when .venv
# does not work any more.

PYTHON := .venv/bin/python
STAMPS := .setup
SOURCES := pyproject.toml $(wildcard native/*.c native/*.h)
CODE := overlaykit $(wildcard tests examples)
NATIVE := $(wildcard native/*.c native/*.h)
SCRIPTS := .ci/run $(filter-out %.packages %.py,$(wildcard setup/*))

.PHONY: help demo test oracle proofs bench dist check check-python check-native check-scripts setup setup-tests clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo         run the main job: two Pythons at one path (OFFLINE=1: fetch no package for it)'
	@echo 'make test         run every test (ARGS="-k name": arguments for pytest)'
	@echo 'make oracle       the long comparison with the kernel'"'"'s overlayfs (EXAMPLES=500 of them)'
	@echo 'make proofs       real programs, a minute of stress, every workload of the benchmark (fetches packages)'
	@echo 'make bench        what it costs beside other file systems (ARGS="--output DIR": arguments, instead of --quick)'
	@echo 'make dist         an sdist and a wheel in dist/'
	@echo 'make check        types, lint, format'
	@echo 'make setup        only set up: system packages, .venv, the C extension, overlaykit itself'
	@echo 'make setup-tests  the same, with what tests and checks need'
	@echo 'make clean        remove what was built and installed here'

demo: setup
	@$(PYTHON) examples/two_pythons.py $(if $(OFFLINE),--offline)

# Compiled once, for the thousands of interpreters that the tests start. One worker more than processors, because tests
# wait for processes. Tests of one xdist_group share an expensive fixture, or are long: groups start first.
test: setup-tests
	@$(PYTHON) -m compileall -q overlaykit
	@$(PYTHON) -m pytest --numprocesses=$$(($$(nproc) + 1)) --dist=loadgroup $(ARGS)

oracle: setup-tests
	@OVERLAYKIT_ORACLE_EXAMPLES=$(or $(EXAMPLES),500) $(PYTHON) -m pytest tests/oracle $(ARGS)

proofs: setup-tests
	@setup/packages setup/proofs.packages
	@OVERLAYKIT_PROOFS=1 OVERLAYKIT_STRESS_OPERATIONS=40000 $(PYTHON) -m pytest tests/proofs tests/stress tests/bench tests/posix/test_disks.py tests/crash/test_forms.py $(ARGS)

bench: setup-tests
	@.venv/bin/overlaykit bench $(or $(ARGS),--quick)

dist: setup-tests
	@rm -rf dist
	$(PYTHON) -m build --no-isolation --outdir dist

check: check-python check-native check-scripts

check-python: setup-tests
	$(PYTHON) -m mypy $(CODE)
	$(PYTHON) -m ruff check $(CODE)
	$(PYTHON) -m ruff format --check $(CODE)

check-native: setup-tests
	.venv/bin/clang-format --dry-run -Werror $(NATIVE)
	$(PYTHON) setup/strict_build.py

check-scripts: setup-tests
	.venv/bin/shellcheck $(SCRIPTS)

setup:
	+@mkdir -p $(STAMPS) && flock $(STAMPS) sh -c '$(forget_broken); exec $(MAKE) --silent $(STAMPS)/run'
	@setup/device

setup-tests:
	+@mkdir -p $(STAMPS) && flock $(STAMPS) sh -c '$(forget_broken); exec $(MAKE) --silent $(STAMPS)/tests'
	@setup/device

# The stamps are made under a lock, so that of several makes at once the second finds what the first has done.
forget_broken = $(PYTHON) -I -c "import overlaykit._native" 2>/dev/null || rm -f $(STAMPS)/run $(STAMPS)/tests

$(STAMPS)/run: $(STAMPS)/run.packages $(SOURCES)
	@setup/environment
	@touch $@

$(STAMPS)/tests: $(STAMPS)/tests.packages $(SOURCES)
	@setup/environment dev,bench
	@touch $@ $(STAMPS)/run

$(STAMPS)/run.packages: setup/run.packages
	@setup/packages $^
	@touch $@

$(STAMPS)/tests.packages: setup/run.packages setup/tests.packages setup/bench.packages
	@setup/packages $^
	@touch $@ $(STAMPS)/run.packages

clean:
	rm -rf .venv $(STAMPS) build dist *.egg-info overlaykit/_native*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
