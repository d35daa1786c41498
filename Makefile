# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are complete from nothing: each makes what it needs first, and only once.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
CPP_BUILD := $(abspath .cache/cpp)
# Files of tests that run at once; each may take 3 GiB of memory.
JOBS ?= 2
# Inductor's CPU kernels spin at OpenMP barriers; with passive waiting other processes on the machine keep their share.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup demo test cpp cpp-sanitize lint format benchmark lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup:  ## the virtual environment in .venv, with ROS 2, torch and this package
	@VENV=$(VENV) scripts/setup_venv.sh

demo: setup  ## events -> features by a compiled artifact in a real ROS 2 node; results in demo/  (EVENTS=file, MODEL=, CHECKPOINT=)
	@$(BIN)/f3_demo --output demo $(if $(EVENTS),--events $(EVENTS)) $(if $(MODEL),--model-name $(MODEL)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

test: setup lint cpp cpp-sanitize  ## ruff, mypy and all tests, Python and C++
	@AOT_PERCEPTION_CPP_BUILD=$(CPP_BUILD) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" \
	  -n $(JOBS) --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest -m alone

cpp: setup  ## the C++ core and tools, without ROS, in .cache/cpp, and their tests
	@mkdir -p .cache
	@cmake -S cpp_nodes -B $(CPP_BUILD) -G Ninja -Wno-dev -DPython3_EXECUTABLE=$(abspath $(BIN))/python >$(CPP_BUILD).log || { cat $(CPP_BUILD).log; exit 1; }
	@cmake --build $(CPP_BUILD)
	@ctest --test-dir $(CPP_BUILD) --output-on-failure

cpp-sanitize:  ## decoders and parsers in C++ under address and undefined-behaviour sanitizers, and their tests
	@mkdir -p .cache
	@cmake -S cpp_nodes -B $(CPP_BUILD)_sanitize -G Ninja -Wno-dev -DAOT_PERCEPTION_SANITIZE=ON >$(CPP_BUILD)_sanitize.log || { cat $(CPP_BUILD)_sanitize.log; exit 1; }
	@cmake --build $(CPP_BUILD)_sanitize
	@ctest --test-dir $(CPP_BUILD)_sanitize --output-on-failure

lint: setup  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## let ruff rewrite the sources
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

benchmark: setup  ## decoding and network speed on this machine
	@$(BIN)/python benchmarks/decode_events.py
	@$(BIN)/python benchmarks/f3_latency.py

lock:  ## exact versions of what requirements.in asks for, from a new environment
	@scripts/make_lock.sh

clean:  ## everything that was made here
	rm -rf $(VENV) .cache demo build install log
