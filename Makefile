# make demo   train a small Mask R-CNN from scratch on generated scenes, see its AP and its pictures
# make test   the linter and the tests
# make lessons         open the course in JupyterLab;  lessons-build, lessons-execute, book, lessons-check: see lessons/
# make demo QUICK=1    the same in a quarter of the time, with a coarser model;  either goes on where it was stopped
# TORCH_INDEX names another index for torch, for example that of its CPU builds (see README).
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FAST   := $(filter-out 0,$(QUICK))
OUT    ?= runs/demo$(if $(FAST),-quick)

.PHONY: demo test test-slow lint clean lessons lessons-build lessons-execute book lessons-check

demo: $(VENV)/.demo
	$(BIN)/python -m minimaskrcnn demo --out $(OUT) $(if $(FAST),--quick)

# Shapes are checked while the tests run (jaxtyping and beartype); torch.compile and the errors of our own need a
# process without that hook; compiling kernels ahead of time needs one without Triton's interpreter.
test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -m "not slow and not unhooked and not aot and not lessons"
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -q -m "unhooked and not slow"
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -q -m "aot and not slow"

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

lint: $(VENV)/.dev
	$(BIN)/ruff check .

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
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

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .hypothesis .ruff_cache
