# The one list of commands. Each target makes what it needs, the environment included.
#
#   make book       build the book into _build/html
#   make serve      look at it in a browser
#   make test       run every test: the package, the chapters, the shape of the project
#   make check      lint, format, types, spelling, freshness of the chapters
#   make web        open every page of the book in a real browser
#   make notebooks  run the chapters that have changed and keep their outputs
#   make bench      time the networks and the CRF beside their peers
#   make clean      remove what was built; the environment stays

BIN := .venv/bin
PORT ?= 8000
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Two workers suit a laptop: each holds torch in memory.
JOBS ?= 2

# One thread: faster where the machine is busy, and numbers repeat.
export OMP_NUM_THREADS ?= 1
export NO_ALBUMENTATIONS_UPDATE := 1
# Data sets are found where they lie beside the checkout; MEDSEG_DATA says otherwise.
ifneq ($(wildcard ../shared/data),)
export MEDSEG_DATA ?= $(abspath ../shared/data)
endif

.DELETE_ON_ERROR:
.PHONY: book serve test check web bench notebooks clean

# --- the environment -----------------------------------------------------------------

FIND_PYTHON = for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$python && exit; done; \
	echo "No Python 3.11, 3.12 or 3.13 found: install one, or name it: PYTHON=..." >&2

# Where Linux has no NVIDIA driver, torch comes without its gigabytes of CUDA. If its CPU
# index cannot be reached, pip's usual index must do.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: some minutes the first time"
	@python=$$($(FIND_PYTHON)); test -n "$$python" && $$python -m venv .venv
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(BIN)/python -m pip install -q --no-deps --timeout 10 --retries 0 \
			--index-url $(TORCH_INDEX) $$(grep '^torch==' constraints.txt) \
		|| echo "No torch from $(TORCH_INDEX): going on with pip's usual index"; \
	fi
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[book,test]"
	@touch $@

.venv/installed-web: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[web]"
	@touch $@

# --- the book ------------------------------------------------------------------------

BOOK := _config.yml _toc.yml scripts/check_book.py $(wildcard *.md) $(wildcard notebooks/*.ipynb) \
	$(shell find book medseg -type f -not -name '*.pyc')

book: _build/book
	@echo "The book is in _build/html; to read it: make serve"

_build/book: .venv/installed $(BOOK)
	rm -rf _build/html
	$(BIN)/jupyter-book build . --all -n -W --keep-going -q
	$(BIN)/python scripts/check_book.py
	@touch $@

serve: book
	@echo "The book is at http://127.0.0.1:$(PORT)/ (Ctrl+C stops; PORT=... changes it)"
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# --- the gates -----------------------------------------------------------------------

# Chapters run in the quick budget, each in one worker, the longest work first.
test: .venv/installed
	MEDSEG_PROFILE=quick $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg \
		notebooks tests medseg

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python scripts/notebooks.py check

web: .venv/installed-web _build/book
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/web

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[bench]"
	touch $@

bench: .venv/installed-bench
	for script in tests/bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

# All cores: what the heads of the chapters say is what a reader's laptop does.
notebooks: .venv/installed
	env -u OMP_NUM_THREADS $(BIN)/python scripts/notebooks.py run --stale

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
