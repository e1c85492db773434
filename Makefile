# All tasks, from a fresh Debian machine on. A target first sets up what it needs, once.
#
# A finished set-up leaves a stamp in .setup/. It runs again after its sources change, or when .venv is broken.

PYTHON := .venv/bin/python
STAMPS := .setup
SOURCES := pyproject.toml setup.py setup/headers.py overlaykit/_native.pyi overlaykit/namespace/plan.py \
	$(wildcard native/*.c native/*.h overlaykit/namespace/seccomp_*.py)
CODE := overlaykit $(wildcard tests examples)
TOOLS := setup.py .ci $(wildcard setup/*.py)
NATIVE := $(wildcard native/*.c native/*.h)
SCRIPTS := .ci/run $(filter-out %.c %.packages %.py %__pycache__,$(wildcard setup/*))

.PHONY: help demo test test-all check check-python check-native check-scripts check-changelog coverage oracle installed matrix proofs kernels \
	sanitize bench changelog man dist setup setup-tests clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo         two Pythons at one path, each in its view (OFFLINE=1: with no package fetched)'
	@echo 'make test         the tests, each as one user (ARGS="-k name": arguments for pytest)'
	@echo 'make test-all     the same as each user and in all variants, and those that take long (tests/selection.py)'
	@echo 'make check        types, lint, format, warnings of the compiler, scripts, changelog fragments'
	@echo 'make coverage     make test with branch coverage, held against .ci/coverage.toml (ARGS=--update: raise it)'
	@echo 'make oracle       random programs on the kernel'"'"'s overlayfs and on ours (EXAMPLES=500 of them)'
	@echo 'make matrix       tests of views with each driver, with and without a server'
	@echo 'make installed    tests of commands and mounts with each command and daemon as a fresh interpreter'
	@echo 'make proofs       these three, other kernels, real programs, a minute of stress, each workload of the benchmark'
	@echo 'make kernels      tests on Debian'"'"'s kernels in QEMU (KERNEL=6.1: on that one; ARGS: arguments for pytest)'
	@echo 'make sanitize     tests with AddressSanitizer and UBSan, then ThreadSanitizer (ARGS=thread: with that one)'
	@echo 'make bench        comparison with other file systems (ARGS="--output DIR": arguments, instead of --quick)'
	@echo 'make man          man pages of the commands, into man/'
	@echo 'make changelog    the changelog of the next release, printed'
	@echo 'make dist         an sdist and a wheel in dist/'
	@echo 'make setup        system packages, .venv, the C extension, overlaykit itself'
	@echo 'make setup-tests  the same, and what tests and checks need'
	@echo 'make clean        remove what was built and installed here'

demo: setup
	@$(PYTHON) examples/two_pythons.py $(if $(OFFLINE),--offline)

# Compiled once, for the thousands of interpreters that the tests start. One worker more than processors, because tests
# wait for processes. Tests of one xdist_group share an expensive fixture, or are long: groups start first.
test test-all: setup-tests
	@$(PYTHON) -m compileall -q overlaykit
	@$(rewrite) $(ARGS) || true
	@$(PYTHON) -m pytest --numprocesses=$$(($$(nproc) + 1)) --dist=loadgroup $(if $(filter test-all,$@),--all) $(ARGS)

# Each worker would rewrite the assertions of all tests: eight seconds where their bytecode is not kept, two where it is.
rewrite = PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest --collect-only --quiet >/dev/null 2>&1

check: check-python check-native check-scripts check-changelog

check-python: setup-tests
	$(PYTHON) -m mypy $(CODE) $(wildcard .ci/coverage/*.py setup/*.py)
	$(PYTHON) -m ruff check $(CODE) $(TOOLS)
	$(PYTHON) -m ruff format --check $(CODE) $(TOOLS)

check-native: setup-tests
	.venv/bin/clang-format --dry-run -Werror $(NATIVE)
	$(PYTHON) setup/strict_build.py

check-scripts: setup-tests
	.venv/bin/shellcheck $(SCRIPTS)

check-changelog: setup-tests
	@said=$$(.venv/bin/towncrier build --draft --version next 2>&1) || { echo "$$said" >&2; exit 1; }

coverage: setup-tests
	@$(rewrite) || true
	@$(PYTHON) .ci/coverage/measure.py $(ARGS)

oracle: setup-tests
	@OVERLAYKIT_ORACLE_EXAMPLES=$(or $(EXAMPLES),500) $(PYTHON) -m pytest tests/oracle $(ARGS)

matrix: setup-tests
	@$(PYTHON) -m compileall -q overlaykit
	@OVERLAYKIT_TEST_MATRIX=1 $(PYTHON) -m pytest --all --numprocesses=$$(($$(nproc) + 1)) --dist=loadgroup tests/views \
		tests/cli/test_run.py tests/namespace/test_death.py tests/namespace/test_signals.py $(ARGS)
	@OVERLAYKIT_TEST_MATRIX=1 $(PYTHON) -m pytest --all --numprocesses=$$(($$(nproc) + 1)) -m in_matrix tests/cli $(ARGS)

# In `make test` most are forks of the test's process (tests/forked.py).
installed: setup-tests
	@$(PYTHON) -m compileall -q overlaykit
	@OVERLAYKIT_TEST_INSTALLED=1 $(PYTHON) -m pytest --all --numprocesses=$$(($$(nproc) + 1)) --dist=loadgroup tests/cli \
		tests/crash tests/fuse $(ARGS)

proofs: setup-tests test-all matrix installed
	@setup/packages setup/proofs.packages
	@OVERLAYKIT_PROOFS=1 OVERLAYKIT_STRESS_OPERATIONS=40000 $(PYTHON) -m pytest --all tests/proofs tests/stress tests/bench tests/posix/test_disks.py tests/crash/test_forms.py tests/crash/test_restarted.py tests/fuse/test_keeper.py tests/fuse/test_no_open.py tests/fuse/test_hostile.py tests/changes/test_apply_killed.py tests/changes/test_apply_disk.py tests/kernels tests/machine $(ARGS)

kernels: setup-tests
	@$(PYTHON) -m tests.kernels $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ARGS),-- $(PYTHON) -m pytest $(ARGS))

sanitize: setup-tests
	@setup/sanitize $(ARGS)

bench: setup-tests
	@$(PYTHON) -m compileall -q overlaykit
	@.venv/bin/overlaykit bench $(or $(ARGS),--quick)

changelog: setup-tests
	@.venv/bin/towncrier build --draft --version next

man: setup-tests
	$(PYTHON) setup/manpages.py man

dist: setup-tests
	@rm -rf dist
	$(PYTHON) -m build --no-isolation --outdir dist

setup:
	+@mkdir -p $(STAMPS) && flock $(STAMPS) sh -c '$(forget_broken); exec $(MAKE) --silent $(STAMPS)/run'
	@setup/device

setup-tests:
	+@mkdir -p $(STAMPS) && flock $(STAMPS) sh -c '$(forget_broken); exec $(MAKE) --silent $(STAMPS)/tests'
	@setup/device

# Of several makes at once, one sets up: the stamps are made under a lock.
forget_broken = $(PYTHON) -I -c "import overlaykit._native" 2>/dev/null || rm -f $(STAMPS)/run $(STAMPS)/tests

$(STAMPS)/run: $(STAMPS)/run.packages $(SOURCES)
	@setup/environment
	@touch $@

$(STAMPS)/tests: $(STAMPS)/tests.packages $(SOURCES)
	@setup/environment dev,bench
	@setup/kernel
	@touch $@ $(STAMPS)/run

$(STAMPS)/run.packages: setup/run.packages
	@setup/packages $^
	@touch $@

$(STAMPS)/tests.packages: setup/run.packages setup/tests.packages setup/bench.packages
	@setup/packages $^
	@touch $@ $(STAMPS)/run.packages

clean:
	rm -rf .venv $(STAMPS) build dist *.egg-info overlaykit/_native*.so overlaykit/_supervisor overlaykit/_guest_init overlaykit/*.bpf coverage.json
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
