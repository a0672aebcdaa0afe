# make train     install into .venv, train the allocator of configs/toy.py, evaluate it
# make test      install what the tests need, run them all
# make lint      ruff's checks;  make format  lets ruff mend what it can
# PYTHON=...     the interpreter to build .venv with, 3.11 or 3.12 (python3 if not said)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONFIG ?= configs/toy.py
PYTEST_FLAGS ?= -q -n 2 --dist worksteal

.PHONY: train test test-py312 lint format install install-dev clean
.DELETE_ON_ERROR:

train: install
	$(BIN)/python train.py --config $(CONFIG)
	$(BIN)/python eval.py --config $(CONFIG)

test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

# The suite less the parity with torch, on Python 3.12 and the newer jax: make test-py312 PYTHON=...
test-py312:
	$(MAKE) test VENV=.venv312

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

clean:
	rm -rf $(VENV) .venv312 build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
