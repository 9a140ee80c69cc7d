# Two commands matter: `make demo` and `make test`. Each does its own set-up, and skips it in seconds the second time.
PYTHON := .venv/bin/python
SOURCES := broker server_worker edge_agent export monitoring diffusion evaluation collafuse tests benchmarks

# Test processes side by side, each with a RabbitMQ of its own. Networks as small as theirs are slowed down by a second thread.
TEST_JOBS ?= 3
CHAOS_FLAGS ?=
FUZZ_INPUTS ?= 1000000

.PHONY: help demo test chaos fuzz lint types imports format setup clean

help:
	@echo "make demo     train and run one split diffusion model across three clients here; writes demo_out/report.html"
	@echo "make test     the whole test suite against a real RabbitMQ"
	@echo "make chaos    ten minutes at most: a federation under random faults, and where everything went"
	@echo "make fuzz     a million inputs against the decoder"
	@echo "make lint     ruff: rules and format        make types    mypy --strict"
	@echo "make imports  rooms import downwards only   make format   let ruff mend what it can"
	@echo "make clean    remove the virtual environment and everything made here"

setup:
	@deploy/setup.sh demo

demo: setup
	@.venv/bin/collafuse demo $(DEMO_FLAGS)

test:
	@deploy/setup.sh test
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(TEST_JOBS) --dist worksteal $(TEST_FLAGS)

chaos:
	@deploy/setup.sh demo
	@$(PYTHON) -m tests.chaos $(CHAOS_FLAGS)

fuzz:
	@deploy/setup.sh demo
	@$(PYTHON) -m tests.fuzz --inputs $(FUZZ_INPUTS)

lint: setup
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)

types: setup
	$(PYTHON) -m mypy

imports: setup
	.venv/bin/lint-imports

format: setup
	$(PYTHON) -m ruff check --fix $(SOURCES)
	$(PYTHON) -m ruff format $(SOURCES)

clean:
	rm -rf .venv .collafuse demo_out evaluation_out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
