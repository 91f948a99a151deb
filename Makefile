# Two commands matter: `make demo` and `make test`. Both need Python 3.11 and nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO ?= runs/demo

.PHONY: demo test test-fast test-browser browser bayes check bench clean

demo: .venv/ready
	folder=$(DEMO)-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/python -m tuning run --study=experiments/studies/digits_optimizer.py --dir=$$folder --workers=2 && \
	$(BIN)/python -m tuning report $$folder

test: .venv/ready
	$(BIN)/python -m pytest --ignore=tests/browser

test-fast: .venv/ready
	$(BIN)/python -m pytest -m "not slow"

# Reports in headless chromium, which Debian has.
test-browser: browser
	$(BIN)/python -m pytest tests/browser

browser: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-browser.lock

# Bayesian optimization by Gaussian processes needs torch, 0.9 GB, which no other test does.
bayes: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-bayes.lock

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_import_rules.py

bench: .venv/ready
	$(BIN)/python -m benchmarks.step_overhead
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.topology
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.report

.venv/ready: requirements.lock setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv runs
