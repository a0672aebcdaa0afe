# make train     install into .venv, train the allocator of configs/toy.py, evaluate it
# make test      install what the tests need, run them all
# make test-aot  compile the kernels for TPUs and GPUs that are not there, and a training step at 7B
#                for 32 H100 (.venv-aot, Python 3.11)
# make test-aot-tpu  compile training steps at 7B for 16 TPU v5p and 8 TPU v5e: twenty minutes
# make lint      ruff's checks;  make format  lets ruff mend what it can
# TESTS=...      the files or folders to test, all if not said
# PYTHON=...     the interpreter to build .venv with, 3.11 or 3.12 (python3 if not said)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONFIG ?= configs/toy.py
ON_TPUS := tests/aot/test_step_on_tpus.py
PYTEST_FLAGS ?= -q -n 2 --dist worksteal

.PHONY: train test test-py312 test-aot test-aot-tpu run-aot lint format install install-dev clean
.DELETE_ON_ERROR:

train: install
	$(BIN)/python train.py --config $(CONFIG)
	$(BIN)/python eval.py --config $(CONFIG)

test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS) $(TESTS)

# The suite less the parity with torch, on Python 3.12 and the newer jax: make test-py312 PYTHON=...
test-py312:
	$(MAKE) test VENV=.venv312

# The compilers' libraries come to 3 GB, so they have an environment of their own.
test-aot:
	$(MAKE) run-aot VENV=.venv-aot TESTS="-s --ignore=$(ON_TPUS) tests/aot"

test-aot-tpu:
	$(MAKE) run-aot VENV=.venv-aot TESTS="-s $(ON_TPUS)"

run-aot: $(VENV)/.installed-aot
	$(BIN)/python -m pytest -q --confcutdir=tests/aot $(TESTS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# pip is the last thing that venv writes
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and \
	  "resadapt_jax needs Python 3.11 or 3.12, $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was made from, so a second call installs nothing.
$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/pip
	@echo "Installing into $(VENV): a few minutes the first time"
	$(PIP) install --quiet -r requirements.txt
	$(PIP) install --quiet --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-parity.txt \
                        requirements-parity-nodeps.txt $(VENV)/.installed
	@echo "Installing what the tests need"
	$(PIP) install --quiet -r requirements-dev.txt -r requirements-parity.txt
	$(PIP) install --quiet --no-deps -r requirements-parity-nodeps.txt
	@touch $@

$(VENV)/.installed-aot: requirements-aot.txt requirements-aot-nodeps.txt $(VENV)/.installed
	@echo "Installing the compilers"
	$(PIP) install --quiet -r requirements-aot.txt
	$(PIP) install --quiet --no-deps -r requirements-aot-nodeps.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv312 .venv-aot build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
