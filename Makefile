# Two commands matter: `make demo` and `make test`. Both need Python 3.11 and nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO ?= runs/demo
# uv installs the same and is quicker; it is used where it is on the PATH, and nothing needs it.
install = $(if $(shell command -v uv 2> /dev/null),uv pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet --disable-pip-version-check)

# A process of pytest takes a file of tests at a time, the longest first (tests/seconds.json). There are more of them than
# cores: a test often waits for the processes that it has started.
SHARED := --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-long evidence check bench clean

demo: .venv/ready
	folder=$(DEMO)-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/trialbook tune run --study=experiments/studies/digits_optimizer.py --dir=$$folder --workers=2 && \
	$(BIN)/trialbook tune report $$folder

# Three tiers, each test in one of them: docs/testing.md. PYTEST takes more arguments, such as PYTEST="-n 0 tests/launch".
test: .venv/ready
	$(BIN)/python -m pytest -n 4 $(SHARED) -m "not long and not evidence" $(PYTEST)

test-fast: .venv/ready
	$(BIN)/python -m pytest -n 4 $(SHARED) -m "not slow and not long and not evidence" $(PYTEST)

# What takes minutes, and what needs more than Python 3.11: extras, Python 3.12, Slurm and chromium (skipped where they
# cannot be had).
test-long: .venv-extras/ready .venv-newest/ready
	.venv-extras/bin/python -m pytest -m long $(PYTEST)

# Evidence for docs/: rates over hundreds of simulated studies, and all tables with a command. Takes hours; not in CI.
evidence: .venv-extras/ready
	.venv-extras/bin/python -m pytest -m evidence $(PYTEST)
	.venv-extras/bin/python -m benchmarks.evidence

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_import_rules.py

bench: .venv/ready
	$(BIN)/python -m benchmarks.step_overhead
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.answers
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.topology
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.report

.venv/ready: requirements.lock setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call install,.venv) --requirement requirements.lock
	$(call install,.venv) --no-deps --no-build-isolation --editable .
	touch $@

# An environment of its own, so that `make test` stays without extras: torch (0.9 GB) for Gaussian processes, playwright
# for reports in a browser.
.venv-extras/ready: requirements.lock requirements-extras.lock setup.cfg pyproject.toml
	test -x .venv-extras/bin/python || $(PYTHON) -m venv .venv-extras
	$(call install,.venv-extras) --requirement requirements.lock --requirement requirements-extras.lock
	$(call install,.venv-extras) --no-deps --no-build-isolation --editable .
	touch $@

# The newest versions that setup.cfg allows, on a newer Python, for tests/test_newest_versions.py. Where they cannot be
# had, the file `missing` says why, the test is skipped with that, and the next `make test-long` tries again.
.venv-newest/ready: setup.cfg pyproject.toml
	rm -rf .venv-newest && mkdir .venv-newest
	@for python in python3.12 $$HOME/.pyenv/versions/3.12*/bin/python3.12 missing; do \
	  $$python -c 'import venv' 2> /dev/null && break; \
	done; \
	if test $$python = missing; then echo "Python 3.12 was not found" > .venv-newest/missing; \
	elif $$python -m venv .venv-newest && $(call install,.venv-newest) --editable . beartype pytest pytest-xdist; then touch $@; \
	else echo "installing the newest versions for $$python failed" > .venv-newest/missing; fi
	@cat .venv-newest/missing 2> /dev/null || true

clean:
	rm -rf .venv .venv-extras .venv-newest runs
