# Every command, for people and CI. Each target sets up what it needs; the first call takes minutes, later ones start at once.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: repro serve frameworks bench-serve ui test lint clean help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: .venv/ready  ## from data to a model that Triton serves
	@$(BIN)/python -m pipeline.worktree
	@$(BIN)/evergreen check
	@$(BIN)/dvc repro
	@$(BIN)/evergreen publish --first
	@$(BIN)/evergreen ask --start "where is my parcel?"
	@$(BIN)/evergreen status

serve: .venv/ready  ## serve the champion on loopback, Triton behind the gateway; Ctrl-C stops it
	@exec $(BIN)/evergreen serve

frameworks: .venv/ready  ## PyTorch and scikit-learn models beside the champion; make serve loads them too
	@$(BIN)/python -m pipeline.frameworks --model artifacts/model --split artifacts/split --exported artifacts/export --out artifacts/frameworks
	@$(BIN)/python -m serving.frameworks --made artifacts/frameworks --exported artifacts/export --session artifacts/session

ui: .venv/ready  ## MLflow in the browser, at http://127.0.0.1:5000
	@exec $(BIN)/evergreen ui

test: .venv/ready lint  ## lint, types, import contracts and all tests
	@$(BIN)/python -m pytest

lint: .venv/ready  ## format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench-serve: .venv/ready  ## rows S1a to S7b of the serving goals, beside their controls; 25 minutes
	@$(BIN)/python -m tests.bench.serve

clean:  ## remove what the pipeline made here, but not the home of state
	rm -rf artifacts reports dvc_plots

# One environment holds it all. requirements.lock is whole, so nothing is resolved: pip only fetches and unpacks.
.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; set PYTHON=… to a Python 3.11"; exit 3; }
	@echo "setting up .venv (two or three minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep ^torch== requirements.lock)"  # a CUDA build brings libraries that a CPU build lacks
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
