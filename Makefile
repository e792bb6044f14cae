# Every target sets up first: `make install` is quick when nothing changed.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROOT ?= runs
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: install demo test check lint format bench chaos cluster serve lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/ude-study launch demo --root $(ROOT)
	$(BIN)/ude-study confirm demo --root $(ROOT)
	$(BIN)/ude-study export demo --root $(ROOT) --all-diseases --out $(ROOT)/demo/bundles
	@echo "Browse it: make serve   (or: $(BIN)/ude-study serve --root $(ROOT))"

serve: $(STAMP)
	$(BIN)/ude-study serve --root $(ROOT)

check: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -q

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

cluster: $(STAMP)
	$(BIN)/python docker/local_cluster.py

chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos --seed $(or $(SEED),1) $(if $(PACE),--pace $(PACE)) $(foreach setting,$(SET),--set $(setting))

lock:
	$(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/python -m pip install --quiet --disable-pip-version-check ".[postgresql,server,dev]" setuptools
	build/lock-venv/bin/python -m pip freeze --exclude ude-study --all | grep -v '^pip==' > requirements.lock
	rm -rf build/lock-venv

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
