# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are complete from nothing: each makes what it needs first, and only once.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
# Inductor's CPU kernels spin at OpenMP barriers; with passive waiting other processes on the machine keep their share.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup demo test lint format benchmark lock clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup:  ## the virtual environment in .venv, with ROS 2, torch and this package
	@VENV=$(VENV) scripts/setup_venv.sh

demo: setup  ## events -> features by a compiled artifact in a real ROS 2 node; results in demo/  (EVENTS=file, MODEL=, CHECKPOINT=)
	@$(BIN)/f3_demo --output demo $(if $(EVENTS),--events $(EVENTS)) $(if $(MODEL),--model-name $(MODEL)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

test: setup lint  ## ruff, mypy and all tests
	@$(BIN)/python -m pytest

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
