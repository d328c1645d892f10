# What a person types here. Each target makes the virtual environment when it must, and reuses it.
# `make` alone lists them. Another interpreter: `make demo PYTHON=python3.12` (3.11 or newer).

PYTHON ?= python3
IMAGES ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
SLOW := slow or dist or kill or cluster or container
# Two test processes on two cores: one thread each, or they fight over the cores.
PYTEST := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The ends of what is supported: versions, or programs.
OLDEST ?= 3.11
NEWEST ?= 3.13

ENGINE ?= docker
CA ?=
comma := ,
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tokenstore/src/tokenstore/__init__.py)
IMAGE_reader := tokenstore-reader
IMAGE_build := tokenstore-build
IMAGE_train := seit-train
LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-package tokenstore

.DEFAULT_GOAL := help
.PHONY: help demo test test-all slurm-test check format docs site bench dist dist-test images locks clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## images -> tokens -> store -> training, with a table and a picture; IMAGES=folder for your own
	$(BIN)/python -m pipelines.demo.run $(if $(IMAGES),--images "$(IMAGES)")

test: $(INSTALLED) ## the core suite (minutes)
	$(PYTEST) -m "not ($(SLOW))"

test-all: $(INSTALLED) ## the core suite and what is slow: kills, several processes, wheels
	$(PYTEST)

slurm-test: $(INSTALLED) ## the cluster scripts on a SLURM of one node (root, Debian's slurm and munge)
	$(BIN)/python -m pytest -m cluster tests/pipelines/test_slurm.py

check: $(INSTALLED) ## format, lint, types, import rules, and that cli.md and api.txt are fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.make_cli --check
	$(BIN)/python -m docs.make_api --check
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck pipelines/cluster/slurm/* pipelines/cluster/ray/build.sh docker/*.sh

format: $(INSTALLED) ## rewrite the files as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## write docs/cli.md (the --help of every command) and docs/api.txt (public names)
	$(BIN)/python -m docs.make_cli
	$(BIN)/python -m docs.make_api

site: $(INSTALLED) ## README.md and docs/ as pages in site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(INSTALLED) ## measure this machine: tokenizing, reading and loading rates
	$(BIN)/python -m benchmarks.rates

dist: $(INSTALLED) ## wheels and sdists of what is committed, into dist/; the same bytes wherever
	rm -rf dist && mkdir -p dist/source
	git archive HEAD .gitignore tokenstore seit_train docker/wheels.lock | tar -x -C dist/source
	for package in tokenstore seit_train; do \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/uv build --quiet --no-create-gitignore \
	    --python $(BIN)/python --require-hashes --build-constraints dist/source/docker/wheels.lock \
	    --out-dir dist dist/source/$$package || exit 1; \
	done
	rm -r dist/source && cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

dist-test: dist ## install dist/ into clean environments, lowest and newest versions, and use it (6 GB)
	$(BIN)/python -m tests.clean_install --python $(OLDEST) --versions lowest
	$(BIN)/python -m tests.clean_install --python $(NEWEST) --versions newest

images: ## the images reader, build and train; ENGINE=podman for another, CA=file for a certificate
	$(foreach target,reader build train,$(ENGINE) build --file docker/Dockerfile --target $(target) \
	  $(if $(CA),--secret id=ca$(comma)src=$(CA)) --build-arg VERSION=$(VERSION) --tag $(IMAGE_$(target)):$(VERSION) . &&) true

locks: $(INSTALLED) ## newest versions into docker/*.lock, with hashes
	$(LOCK) docker/wheels.in -o docker/wheels.lock
	$(LOCK) tokenstore/pyproject.toml --extra s3 --extra http -o docker/reader.lock
	$(LOCK) tokenstore/pyproject.toml docker/cluster.in --extra build --extra ray -o docker/build.lock
	$(LOCK) seit_train/pyproject.toml docker/cluster.in docker/build.lock -o docker/train.lock

clean: ## remove what the targets made, but not .venv
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find tokenstore seit_train pipelines tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml tokenstore/pyproject.toml seit_train/pyproject.toml tokenstore/src/tokenstore/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into .venv (about 6 GB with PyTorch; once, some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e "./tokenstore[build]" -e ./seit_train --group dev
	@touch $@
