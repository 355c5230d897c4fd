# Everything a newcomer needs. Each target does its own set-up, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000

# Compiling every module again in each of the hundreds of processes of the tests takes minutes.
unexport PYTHONDONTWRITEBYTECODE

# The tests write, flush and delete gigabytes: in memory, where 8 GB of it are free for files.
SCRATCH := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')" -gt 8000000 ] \
	2>/dev/null && echo /dev/shm || echo "$${TMPDIR:-/tmp}")
# Two processes have two cores: a second thread of either would wait for the other, at full speed.
PYTEST := TMPDIR=$(SCRATCH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test slow-tests check fast lint test-postgres audit bench soak release kernels browser chromium node postgres exiftool clean

help:
	@echo "make run     serve the application at http://127.0.0.1:$(PORT)"
	@echo "make test    run the whole test suite"
	@echo "make test-postgres  what of it asks a database, on PostgreSQL"
	@echo "make check   lint, types, layers, the tests without browser and long jobs, known holes"
	@echo "make bench   measure speed; the figures go to bench/RESULTS.md"
	@echo "make soak    the long tests of a release: kills, load, odd requests"
	@echo "make release the wheel and its bill of materials, in dist/"
	@echo "make clean   remove the environment and caches"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(READY)
	$(BIN)/tastemaker serve --port $(PORT)

test: $(READY) browser node postgres exiftool
	$(PYTEST) --durations 10

# Once in a while: which tests take long, and are therefore not for `make check`.
slow-tests: $(READY) browser node postgres exiftool
	$(PYTEST) --note-slow

# Every test of one process that asks a database, on PostgreSQL instead (tests/on_postgres.py);
# TESTS names some of them.
TESTS ?= tests
test-postgres: $(READY) postgres
	$(PYTEST) -p tests.on_postgres -m 'not soak' $(TESTS)

# The types take one processor for half a minute: beside the tests, not before them.
check: $(READY)
	$(MAKE) --jobs 2 lint fast
	$(MAKE) audit

# Known holes in what is installed. Without a connection nothing is said against it.
audit: $(READY)
	@found=$$($(BIN)/pip-audit --local --skip-editable --progress-spinner off 2>&1); code=$$?; \
	echo "$$found" | grep -v 'not found on PyPI' || true; \
	[ $$code = 0 ] || ! echo "$$found" | grep -Eq '(PYSEC|GHSA|CVE)-'

# How long `make soak` takes: `make soak KILLS=3 LOAD_SECONDS=20 STORIES=2 EXAMPLES=2` is a try of it.
KILLS ?= 100
LOAD_SECONDS ?= 1200
STORIES ?= 14
EXAMPLES ?= 60

# Before a release, half an hour: a hundred kills while scoring, kills in every phase of a training and
# at every step of publishing, twenty minutes of ten people beside an embedding and a training, every
# request that the schema of the API allows, a cluster whose machines die.
soak: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,soak]'
	KILLS=$(KILLS) LOAD_SECONDS=$(LOAD_SECONDS) STORIES=$(STORIES) EXAMPLES=$(EXAMPLES) \
		$(BIN)/python -m pytest -m "" -s tests/test_durability.py tests/test_many_hands.py \
		tests/test_soak.py tests/test_worker.py tests/test_versions.py tests/test_postgres.py \
		tests/test_ray.py

# The wheel, and beside it what an installation of it is made of (CycloneDX).
release: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m docs.bill_of_materials dist/tastemaker.cdx.json

# The loops of the web page that scores by itself, from C to WebAssembly: after a change of kernels.c
# only. The compiler comes from PyPI (100 MB); the record lets a test see that both belong together.
PAGE := templates/elsewhere
kernels: $(READY)
	$(BIN)/python -m pip install --quiet ziglang==0.17.1
	$(BIN)/python -m ziglang cc -target wasm32-freestanding -O3 -msimd128 -ffreestanding -fno-builtin \
		-nostdlib -Wl,--no-entry -Wl,--strip-all -Wl,--export=pointwise -Wl,--export=depthwise \
		-Wl,--export=unfold -Wl,--export=__heap_base -o $(PAGE)/kernels.wasm $(PAGE)/kernels.c
	cd $(PAGE) && python3 -c "import hashlib, json; print(json.dumps({name: hashlib.sha256( \
		open(name, 'rb').read()).hexdigest() for name in ('kernels.c', 'kernels.wasm')}, indent=1))" \
		> kernels.json

fast: $(READY) node
	$(PYTEST) -m "not slow and not browser and not soak"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY) chromium
	$(BIN)/python -m bench

# A browser for the tests: Chromium without a window opens a page in a quarter of the time of the other
# (tests/conftest.py). Debian's, else one that is installed, else Playwright's own.
browser: $(READY)
	@command -v chromium-headless-shell >/dev/null 2>&1 || test -e $(VENV)/.browser || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq chromium-headless-shell >/dev/null; } || \
	command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
	{ $(BIN)/python -m playwright install chromium && touch $(VENV)/.browser; }

# What people look with, to measure it.
chromium: browser
	@command -v chromium >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -y -qq chromium >/dev/null; } || \
	echo "Chromium is not installed: Playwright's own is measured."

# Node for the tests of the scripts: one that is installed, else Debian's.
node:
	@command -v node >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq nodejs >/dev/null; } || \
	{ echo "Node 18 or newer is needed to test the scripts (https://nodejs.org)."; exit 1; }

# PostgreSQL for its tests: one that is installed, else Debian's, else they say that they are skipped.
postgres:
	@command -v pg_ctl >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; } || \
	echo "PostgreSQL is not installed: its tests are skipped."

# ExifTool, Exiv2 (which digiKam writes with) and darktable for the round trips of stars: those that
# are installed, else Debian's, else the tests that need them are skipped.
exiftool:
	@command -v exiftool exiv2 darktable-cli 2>/dev/null | wc -l | grep -q 3 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends libimage-exiftool-perl exiv2 darktable >/dev/null; } || \
	echo "ExifTool, Exiv2 or darktable is not installed: the tests that need them are skipped."

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
