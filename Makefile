# `make train` and `make test` work on a fresh clone with Python >= 3.10, a C++ compiler and
# make: each sets up .venv, builds the extension and runs its job.
#
#   PYTHON       interpreter that makes the environment
#   TORCH        requirement given to pip for torch
#   TORCH_FLAGS  further pip flags, e.g. --index-url with PyTorch's CPU, cu126 (V100) or other index
#   JOBS         test processes
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Without a GPU: the release whose default wheel is the CPU build (later ones bring gigabytes of CUDA).
TORCH ?= $(shell command -v nvidia-smi >/dev/null && echo 'torch>=2.11' || echo 'torch==2.13.0')
TORCH_FLAGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml

.PHONY: train test lint format clean
.DELETE_ON_ERROR:

train: $(VENV)/.train
	$(BIN)/ecgan train $(ARGS)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files 'csrc/*' 'tests/cpp/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	git ls-files 'csrc/*' 'tests/cpp/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info kernels/ecgan_kernels/*.so

# Stamps: torch first, since the build of the extension imports it.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip 'setuptools>=77' wheel
	$(BIN)/pip install --quiet numpy '$(TORCH)' $(TORCH_FLAGS)
	touch $@

$(VENV)/.train: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet ninja 'pybind11>=2.13'
	$(BIN)/pip install --quiet --no-build-isolation -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch $(NATIVE)
	$(BIN)/pip install --quiet ninja 'pybind11>=2.13'
	$(BIN)/pip install --quiet --no-build-isolation -e '.[train,dev]'
	touch $@ $(VENV)/.train
