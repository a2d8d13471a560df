# Every command, for people and CI. Each target sets up what it needs: the first call takes minutes, later ones start at once.
PYTHON ?= python3.11
export PYTHONDONTWRITEBYTECODE = # modules are compiled once: without that, each process spends seconds on torch alone
BIN := .venv/bin
PARALLEL ?= --numprocesses $(shell n=$$(nproc); echo $$((n > 4 ? 4 : n))) --dist loadfile --no-loadscope-reorder

.PHONY: repro folds studies serve console watch traffic loop manifests architecture frameworks bench-serve bench-drift bench-train bench-flywheel bench-release drill ui test test-fast lint hashes clean help
.DEFAULT_GOAL := help
# A program ends with make, whatever ends that.
export EVERGREEN_ENDS_WITH_PARENT := 1

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

repro: .venv/ready  ## from data to a model that Triton serves
	@exec $(BIN)/python -m evergreen.repro

folds: .venv/ready  ## cross-validation on train.folds stratified folds: mean and standard deviation, nested MLflow runs
	@$(BIN)/dvc repro split
	@$(BIN)/python -m pipeline.stages.cross_validate --split artifacts/split --out artifacts/folds

studies: .venv/ready  ## every arm of docs/studies as a DVC experiment, with pages; resumes where it stopped; about a minute per arm
	@$(BIN)/python -m pipeline.tuning.studies

serve: .venv/ready  ## serve the champion on loopback, Triton behind the gateway; Ctrl-C stops it
	@exec $(BIN)/evergreen serve

console: .venv/ready  ## the pages of the console alone; make serve and make watch start them too; Ctrl-C stops it
	@exec $(BIN)/python -m monitoring.console

watch: .venv/ready .tools/ready  ## Prometheus, Alertmanager, inbox, monitor; alerts start retrains with RETRAIN=1; needs make serve; Ctrl-C stops them
	@exec $(BIN)/python -m monitoring.local.watch $(if $(filter-out 0 no off false,$(RETRAIN)),--retrain)

traffic: .venv/ready  ## send messages of customers who start to write about a new topic through make serve; six minutes
	@exec $(BIN)/python -m serving.loadtest.replay data/traffic.jsonl --labels 0.2

loop: .venv/ready .tools/ready  ## after make repro: drift, alert, labels, retrain, gate, new champion, in a scratch home; seven minutes
	@exec $(BIN)/python -m evergreen.loop

manifests: .venv/ready  ## render alert rules, dashboard and the cluster's files from params.yaml
	@$(BIN)/python -m monitoring.alert_rules.manifests

architecture: .venv/dev  ## draw folders and imports in docs/architecture.md from the code
	@$(BIN)/python -m tests.architecture

frameworks: .venv/ready  ## export PyTorch and scikit-learn models, which make serve loads next to the champion
	@$(BIN)/python -m pipeline.frameworks --model artifacts/model --split artifacts/split --exported artifacts/export --out artifacts/frameworks
	@$(BIN)/python -m serving.release.frameworks --made artifacts/frameworks --exported artifacts/export --session artifacts/session

ui: .venv/ready  ## open MLflow at http://127.0.0.1:5000
	@exec $(BIN)/evergreen ui

test: .venv/dev lint  ## run lint and all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-fast: .venv/dev  ## lint with ruff, run the tests that start no server and no pipeline; two minutes
	@$(BIN)/ruff check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "not server and not slow"

lint: .venv/dev  ## check format, lint, types, import contracts and unused names
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vulture

bench-serve: .venv/dev  ## measure serving against its controls; 25 minutes
	@$(BIN)/python -m tests.bench.serve

bench-drift: .venv/dev .peers/ready  ## measure monitoring against its controls
	@$(BIN)/python -m tests.bench.drift

bench-train: .venv/dev  ## measure training against Hugging Face's Trainer; 20 minutes
	@$(BIN)/python -m tests.bench.train

bench-flywheel: .venv/dev  ## measure the flywheel against other orders of the label queue
	@$(BIN)/python -m tests.bench.flywheel

bench-release: .venv/dev  ## measure gradual releases against other rules for a roll-back
	@$(BIN)/python -m tests.bench.release

drill: .venv/dev .tools/ready  ## inject faults: swaps, overload, killed servers, monitoring, alert floods, retrains, intruders, poisoned labels, a zoo of bad models; more than three hours
	@$(BIN)/python -m tests.monitoring.retrain.simulation --seeds 10000
	@$(BIN)/python -m tests.faults.drill

hashes: .venv/dev  ## after a change of versions in the lock files: write the hashes of their files; needs uv
	@$(BIN)/python -m tests.lock_hashes

clean:  ## remove the pipeline's outputs, but not live/
	rm -rf artifacts reports dvc_plots

.tools/ready: monitoring/local/tools.py .venv/ready
	@$(BIN)/python -m monitoring.local.tools .tools

# Other drift detectors, the controls of bench-drift, in a separate environment.
.peers/ready: requirements-peers.lock
	@$(PYTHON) -m venv .peers
	@.peers/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-peers.lock
	@touch $@

# One environment for everything. The locks are complete, so pip resolves nothing: it only downloads, compares hashes and unpacks.
# torch has no hash: builds for CPUs and CUDA share a version. Modules are compiled when they are first imported, which most never are. `ready` holds the seconds that the installation took.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
.venv/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; set PYTHON=… to a Python 3.11"; exit 3; }
	@echo "setting up .venv (a minute or two, once)"
	@set -e; began=$$(date +%s); torch="$$(grep ^torch== requirements.lock)"; $(PYTHON) -m venv .venv; \
	  grep -v -e ^torch== -e ^# requirements.lock | awk '{ print > (".venv/part" NR % 3 ".txt") }'; \
	  pips=; trap 'kill $$pips 2>/dev/null || :' EXIT; trap 'exit 130' INT TERM; `: four at once, because pip mostly waits` \
	  $(PIP) --no-deps "$$torch" & pips=$$!; \
	  for part in .venv/part*.txt; do $(PIP) --no-deps --require-hashes --requirement $$part & pips="$$! $$pips"; done; \
	  for pip in $$pips; do wait $$pip; done; trap - EXIT; \
	  $(PIP) "$$torch"; `: a CUDA build needs libraries that a CPU build lacks` \
	  $(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .; `: a path, which no folder called evergreen hides` \
	  echo $$(($$(date +%s) - began)) > $@

.venv/dev: requirements-dev.lock .venv/ready
	@$(PIP) --no-deps --require-hashes --requirement requirements-dev.lock
	@touch $@
