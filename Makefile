# `make train` and `make test` work on a fresh clone with Python >= 3.10, a C++ compiler and
# make: each sets up .venv, builds the extension and runs its job.
#
#   PYTHON       interpreter that makes the environment
#   TORCH        requirement given to pip for torch
#   TORCH_FLAGS  further pip flags, e.g. --index-url with PyTorch's CPU, cu126 (V100) or other index
#   JOBS         test processes
#   ISAS         all: attack every instruction set of this processor in `make sanitize`; best: the last
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Without a GPU: the release whose default wheel is the CPU build (later ones bring gigabytes of CUDA).
TORCH ?= $(shell command -v nvidia-smi >/dev/null && echo 'torch>=2.11' || echo 'torch==2.13.0')
TORCH_FLAGS ?=
JOBS ?= 2
ISAS ?= all
BIN := $(VENV)/bin
# Python compiles what it imports; pip would compile all of 16000 files, which takes a minute.
PIP := $(BIN)/pip install --quiet --no-compile
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml

.PHONY: train test docs dist cpp-tests sanitize check-cuda faults lint format clean
.DELETE_ON_ERROR:

train: $(VENV)/.train
	$(BIN)/ecgan train $(ARGS)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# The documentation site, into build/docs; a warning is an error.
docs: $(VENV)/.dev
	PYTHONPATH=.:kernels $(BIN)/sphinx-build -W -n --keep-going -q docs build/docs
	@echo build/docs/index.html

# What tests/test_cpp.py runs, built beforehand: needs no torch, so CI does it beside pip.
cpp-tests: $(VENV)/.cmake
	export PATH="$(abspath $(BIN)):$$PATH"; mkdir -p build/cpp-tests; \
	  cmake --preset tests >/dev/null && cmake --build --preset tests -j $(JOBS) >/dev/null

# The operators on a build with AddressSanitizer and UndefinedBehaviorSanitizer (of GCC): their tests,
# which run older instruction sets in children, and the attacks under every one that this processor
# has; with ISAS=best under the newest alone. Torch and Python free nothing at exit, so leaks are not
# looked for. What a dying process says is left to stderr: pytest would take it with it.
SANITIZED := build/sanitize
OPERATORS := $(addprefix tests/kernels/test_,$(addsuffix .py,edge_transfer edge_transfer_lrelu \
  similarity_bce pixel_contrast label_conv2d class_conv2d class_conv2d_fused label_spade \
  label_spade_lookup label_index label_index_host))
# Takes long, and reads and writes what the rest does too.
LONG := compile or opcheck or peak or memory or gradcheck or reference or cuda
LONG += $(if $(filter best,$(ISAS)),or instruction_set)
sanitize: $(VENV)/.dev
	SANITIZE=1 SANITIZE_ISAS=$(ISAS) FORCE_CUDA=0 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py -q build \
	  --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	@isas=$$(PYTHONPATH=kernels $(BIN)/python -c 'from ecgan_kernels import cpu_isa; \
	  known = ["baseline", "avx2", "avx512"]; print(*known[: known.index(cpu_isa()) + 1][$(if $(filter best,$(ISAS)),-1:,:)])'); \
	export OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=sanitize PYTHONPATH=$(SANITIZED)/lib; \
	export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1; \
	cxx=$${CXX:-c++}; \
	export LD_PRELOAD="$$($$cxx -print-file-name=libasan.so) $$($$cxx -print-file-name=libubsan.so)"; \
	run="$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --capture=sys $(ARGS)"; \
	$$run $(OPERATORS) -k 'not ($(LONG))' || exit 1; \
	for isa in $$isas; do ECGAN_CPU_ISA=$$isa $$run tests/kernels/attack || exit 1; done

# The machine code of every GPU kernel for sm_70 to sm_90, into docs/cuda-kernels.md. Needs nvcc 13 and,
# for sm_70, CUDA12_HOME or what Debian 12 and PyPI serve (--without-sm70 does without).
check-cuda: $(VENV)/.dev
	PYTHONPATH=.:kernels $(BIN)/python -m tests.cuda.check --jobs $(JOBS) $(ARGS)

# Plants faults in the CUDA kernels and sees which check catches each, into docs/verification.md.
faults: $(VENV)/.dev
	$(BIN)/python tests/cpp/plant.py --jobs $(JOBS) $(ARGS)

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

# What a release uploads, checked: an sdist, and a wheel for every Python from 3.10 on. The wheel holds
# CUDA operators where this machine builds them; it is made in place, so that objects are reused.
DIST := dist
dist: $(VENV)/.dev
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m build --no-isolation --sdist --outdir $(DIST) . >/dev/null
	FORCE_ABI3=1 $(BIN)/python -m build --no-isolation --wheel --outdir $(DIST) . >/dev/null
	$(BIN)/twine check --strict $(DIST)/*
	$(BIN)/abi3audit --strict $(DIST)/*.whl

clean:
	rm -rf build dist *.egg-info kernels/ecgan_kernels/*.so

# Stamps: torch first, since the build of the extension imports it.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip 'setuptools>=77' wheel
	touch $@

$(VENV)/.cmake: $(VENV)/.venv
	$(PIP) 'cmake>=3.24' 'ninja>=1.11'
	touch $@

$(VENV)/.torch: $(VENV)/.venv
	$(PIP) numpy '$(TORCH)' $(TORCH_FLAGS)
	touch $@

$(VENV)/.train: $(VENV)/.torch $(NATIVE)
	$(PIP) ninja 'pybind11>=2.13'
	$(PIP) --no-build-isolation -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch $(NATIVE)
	$(PIP) ninja 'pybind11>=2.13'
	$(PIP) --no-build-isolation -e '.[train,dev]'
	touch $@ $(VENV)/.train
