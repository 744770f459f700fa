# Two commands are all a newcomer needs: make iterate, make test.
.PHONY: iterate test test-slow test-all drills lint site setup setup-dev

ROUNDS ?= 3
ARGS ?=
PYTEST_ARGS ?=

setup:
	@scripts/setup.sh run

setup-dev:
	@scripts/setup.sh dev

iterate: setup
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/bcpg-cluster iterate --rounds $(ROUNDS) $(ARGS)

# Two processes: one has the engines, the other everything else (tests/two_workers.py).
PYTEST = PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest -n 2 --durations=25 $(PYTEST_ARGS)

test: setup-dev
	@$(PYTEST) -m "not gpu and not slow"

test-slow: setup-dev
	@$(PYTEST) -m "not gpu and slow"

test-all: test test-slow

# Small runs are hit in every way there is (tests/drills); some of it is among the tests.
DRILLS ?= --members 60 --drivers 12 --cluster 6 --files 4 --operations 4
drills: setup-dev
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m tests.drills $(DRILLS)

lint: setup-dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

site: setup-dev
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict
