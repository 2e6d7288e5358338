# `make demo` and `make test` each set up what they need, in .venv, and reuse it while it is up to date.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PEERS  := .venv-bench
RESULTS ?= bench/results/latest
SOURCES := pyproject.toml setup.py $(wildcard accel/*.pyx accel/*.pxd)

# The pin is the build whose bits of the export tests were recorded; on Linux it is large only with CUDA.
TORCH  ?= torch==2.13.0

.PHONY: demo test fuzz lint docs bench clean

demo: $(VENV)/.run
	$(BIN)/fxp demo --output demo-out

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist worksteal -q

# Damaged and hostile inputs of every kind of file, in processes of their own.
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz.py --count 2000

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# The rivals live in an environment of their own. `python -m bench.page` makes the tables of docs/performance.md.
bench: $(PEERS)/.peers
	$(PEERS)/bin/python -m bench.kernels --output $(RESULTS)/kernels.json
	$(PEERS)/bin/python -m bench.startup --output $(RESULTS)/startup.json
	$(PEERS)/bin/python -m bench.memory --output $(RESULTS)/memory.json
	$(PEERS)/bin/python -m bench.instructions --output $(RESULTS)/instructions.json

# The sentinels say which set of packages the environment holds and are older than whatever they depend on
# as soon as that changes. The extension is compiled in place, so an edited .pyx is rebuilt by the same rule.
$(VENV)/.run: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

$(PEERS)/.peers: $(SOURCES) bench/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	$(PEERS)/bin/python -m bench.peers.install
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info demo-out .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f accel/*.so accel/*.c
