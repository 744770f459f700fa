# Two commands are all a newcomer needs: make iterate, make test.
.PHONY: iterate test lint setup setup-dev

ROUNDS ?= 3
ARGS ?=
PYTEST_ARGS ?=

setup:
	@scripts/setup.sh run

setup-dev:
	@scripts/setup.sh dev

iterate: setup
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/bcpg-cluster iterate --rounds $(ROUNDS) $(ARGS)

test: setup-dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest -m "not gpu" $(PYTEST_ARGS)

lint: setup-dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
