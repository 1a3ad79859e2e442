# make demo   train a small Mask R-CNN from scratch on generated scenes, see its AP and its pictures
# make test   the linter and the tests
# make bench-ops       our speed; bench-model, bench-kernels and bench-demo as well.  Options: ARGS="--repeats 3"
# make lessons         open the course in JupyterLab;  lessons-build, lessons-execute, book, lessons-check: see lessons/
# make demo QUICK=1    the same in a quarter of the time, with a coarser model;  either goes on where it was stopped
# TORCH_INDEX names another index for torch, for example that of its CPU builds (see README); it is remembered in
# .venv, so that torchvision comes from where torch came from.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FAST   := $(filter-out 0,$(QUICK))
OUT    ?= runs/demo$(if $(FAST),-quick)
TORCH_INDEX ?= $(shell cat $(VENV)/.torch_index 2> /dev/null)
# Two processes: each wants a core and up to 2 GB.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal
HOOKED := not slow and not unhooked and not aot and not lessons

BENCHES := bench-ops bench-model bench-kernels bench-demo
.PHONY: demo test test-broken test-slow lint clean $(BENCHES) lessons lessons-build lessons-execute book lessons-check

demo: $(VENV)/.demo
	$(BIN)/python -m minimaskrcnn demo --out $(OUT) $(if $(FAST),--quick)

# Shapes are checked while the tests run (jaxtyping and beartype); torch.compile and the errors of our own need a
# process without that hook; compiling kernels ahead of time needs one without Triton's interpreter.
test: $(VENV)/.dev
	$(BIN)/ruff check .
	@rm -f $(VENV)/skipped
	SKIPPED=$(VENV)/skipped $(PYTEST) -m "$(HOOKED)"
	SKIPPED=$(VENV)/skipped JAXTYPING_DISABLE=1 $(PYTEST) -m "unhooked and not slow"
	SKIPPED=$(VENV)/skipped TRITON_INTERPRET=0 $(PYTEST) -m "aot and not slow"

# An optional package that is there and does not import costs only the tests that need it: torchvision raises RuntimeError
# beside a torch that it was not built for.  $(1) is the package, $(2) what it raises, $(3) the tests that touch it.
define beside_broken
	@mkdir -p $(VENV)/broken/$(1)/$(1)
	@echo "raise $(2)('$(1) was built for something else')" > $(VENV)/broken/$(1)/$(1)/__init__.py
	PYTHONPATH=$(CURDIR)/$(VENV)/broken/$(1) $(PYTEST) -m "$(HOOKED)" -k "$(3)"
endef
test-broken: $(VENV)/.dev
	$(call beside_broken,torchvision,RuntimeError,torchvision or parity or bench)
	$(call beside_broken,triton,ImportError,kernels or backend)
	$(call beside_broken,matplotlib,ImportError,draw or curve or figure or checking)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "slow and not unhooked and not aot"
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -q -m "slow and unhooked"

# JupyterLab refuses to run as root, as containers do, unless told.
lessons: $(VENV)/.lessons
	cd lessons && ../$(BIN)/jupyter lab 00_tour.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

lessons-build: $(VENV)/.lessons
	$(BIN)/python -m minimaskrcnn_lessons build

lessons-execute: $(VENV)/.lessons
	$(BIN)/python -m minimaskrcnn_lessons execute

book: $(VENV)/.teach
	$(BIN)/python -m minimaskrcnn_lessons book

# Executes every edition, grades, builds the book from what was executed, and drives a browser where there is one.
lessons-check: $(VENV)/.dev
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -q -m lessons

bench-ops bench-model bench-demo: bench-%: $(VENV)/.dev
	$(BIN)/python kernels/bench/$*.py $(ARGS)

bench-kernels: $(VENV)/.dev
	$(BIN)/python kernels/bench/gpu_kernels.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@echo $(TORCH_INDEX) > $(VENV)/.torch_index
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[plot]'
	@touch $@

$(VENV)/.lessons: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[lessons]'
	@touch $@

$(VENV)/.teach: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[teach]'
	@touch $@

# Without a torchvision that fits this torch the comparisons with it skip, and nothing else.
$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	$(PIP) torchvision $$(sed 's/^./--index-url &/' $(VENV)/.torch_index) || echo "No torchvision for this torch: comparisons with it will be skipped."
	@touch $@

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .hypothesis .ruff_cache
