# On a fresh machine `make serve` and `make test` do everything; `make help` lists the rest.
# PYTHON picks the interpreter that the virtual environment is made from, VENV its place.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help serve install test lint types imports check format up down clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## serve the shipped model on 127.0.0.1:8000 (HNE_* variables change what and where)
	@exec $(BIN)/hne-serve

install: $(VENV)/.dev ## everything that training and the checks need, in .venv

test: $(VENV)/.dev ## run every test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check types
	$(BIN)/mypy

imports: $(VENV)/.dev ## check the direction of imports
	$(BIN)/lint-imports --no-logo

check: lint types imports test ## all of the above

format: $(VENV)/.dev ## fix style where it can be done by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

up: ## service, Prometheus and Grafana in containers
	docker compose up --build --wait

down: ## stop the containers, those of the GPU too
	docker compose --profile gpu down

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (Debian, Ubuntu: apt install python3 python3-venv);" \
		"elsewhere installed? make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Serving needs no torch, so it starts from a light install; the rest comes on top in the same environment.
$(VENV)/.serve: pyproject.toml | $(BIN)/python
	@echo "Installing the service into $(VENV); only the first run does"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "Installing training and the checks into $(VENV): torch is large, this takes minutes; only the first run does"
	@$(PIP) --editable '.[train,dev]'
	@touch $@
