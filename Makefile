# make demo    set-up, then the whole job on the models and the camera that ship with the project
# make test    set-up, then the test suite
# make test-all  the suite on every Python 3.10 to 3.13 found
# make test-aarch64  install from aarch64 wheels on an emulated board and run the shipped detector there
# make test-families  the model families against their own packages (about 1.7 GB of them); ARGS="--seeds 5" for more
# make test-models  published models in shared/, beside the checkout: their accuracy, and NVIDIA's builder on each
# make lint    ruff and mypy
# make bench   the speed claims, measured on this machine

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,tensorrt-rtx
BIN := $(VENV)/bin
FAMILIES := .venv-families
# Test files run side by side, one per core up to four.
JOBS ?= $(shell cores=$$(nproc); [ "$$cores" -lt 4 ] && echo "$$cores" || echo 4)
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile
INTERPRETERS = $(shell scripts/interpreters)

.PHONY: demo test test-all smoke test-families test-models test-aarch64 lint bench clean

demo: $(VENV)/.installed
	$(BIN)/edgevision demo --output demo

test: $(VENV)/.device
	$(PYTEST) $(ARGS)

test-all:
	@test -n "$(INTERPRETERS)" || { echo "no Python 3.10 to 3.13 found"; exit 1; }
	@set -e; for python in $(INTERPRETERS); do \
		echo "== $$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$(basename $$python); \
	done

# The quick part of the suite, on the oldest interpreter found.
smoke:
	@test -n "$(INTERPRETERS)" || { echo "no Python 3.10 to 3.13 found"; exit 1; }
	@$(MAKE) --no-print-directory test PYTHON=$(firstword $(INTERPRETERS)) VENV=.venv-$(notdir $(firstword $(INTERPRETERS))) ARGS="-m smoke"

test-models: $(VENV)/.installed
	$(PYTEST) -m families --ignore tests/families $(ARGS)

test-aarch64: $(VENV)/.installed
	scripts/test-aarch64 "$(VENV)"

# Ultralytics runs in an environment of its own.
test-families: $(FAMILIES)/.installed
	ULTRALYTICS_PYTHON=$(CURDIR)/$(FAMILIES)-ultralytics/bin/python \
		$(FAMILIES)/bin/python -m pytest -q -n $(JOBS) --dist loadfile -m families $(ARGS) tests/families

# mypy reads an installed copy, where export/ and calibration/ are subpackages.
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

$(VENV)/.installed: pyproject.toml scripts/set-up
	scripts/set-up "$(PYTHON)" "$(VENV)" "$(EXTRAS)"
	@touch $@

$(FAMILIES)/.installed: pyproject.toml scripts/set-up-families $(wildcard tests/families/requirements*.txt)
	scripts/set-up-families "$(PYTHON)" "$(FAMILIES)"
	@touch $@

# What the tests of the device path run on, where there is no GPU.
$(VENV)/.device: $(VENV)/.installed scripts/set-up-device
	scripts/set-up-device "$(VENV)"
	@touch $@

clean:
	rm -rf build dist demo .venv .venv-* .aarch64 *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
