# Each target works on a fresh clone: it makes the environment that it needs first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCKS := images/locks
KSERVE := .venv-kserve
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)
# The model that was published last, on the embedded sample or on your own data.
MODEL ?= $(shell ls -td build/models/*/channels.json build/sample/models/*/channels.json 2>/dev/null | head -1 | xargs -r dirname)
PORT ?= 8080
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: run test test-fast lint format lock compile serve images test-containers test-dag test-faults test-scale manifests benchmarks clean help

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(BIN)/.cpu  ## run the whole pipeline on the embedded sample
	$(BIN)/python -m pipeline run

test: $(BIN)/.dev  ## pass the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-fast: $(BIN)/.dev  ## pass the tests that take no network, server or process (two minutes)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow"

lint: $(BIN)/.dev  ## check style and types, and that pipeline.yaml is fresh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pipeline compile --check

format: $(BIN)/.dev  ## put the code in its style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

compile: $(BIN)/.cpu  ## write pipeline.yaml
	$(BIN)/python -m pipeline compile

serve: $(BIN)/.dev  ## serve the model that was published last on http://localhost:8080 (PORT=…, MODEL=…)
	@test -n "$(MODEL)" || { echo "nothing is published yet: make run, or name a model: make serve MODEL=gs://…" >&2; exit 2; }
	@echo "serving $(MODEL) on http://localhost:$(PORT)"
	$(BIN)/python -m images.serving --model "$(MODEL)" --port $(PORT)

images: $(if $(PUSH),$(BIN)/.cpu)  ## build the images and print their sizes (BASE_IMAGE=…; PUSH=registry/prefix)
	$(if $(PUSH),$(BIN)/python -m images.release $(PUSH) --version $(VERSION) --check)
	$(BUILD) --file images/steps/Dockerfile --target cpu --tag portrait-scorer/steps:$(VERSION)-cpu .
	$(BUILD) --file images/steps/Dockerfile --target gpu --tag portrait-scorer/steps:$(VERSION)-gpu .
	$(BUILD) --file images/serving/Dockerfile --tag portrait-scorer/serving:$(VERSION) .
	@docker images --format '{{.Repository}}:{{.Tag}}	{{.Size}}' 'portrait-scorer/*:$(VERSION)*'
	$(if $(PUSH),$(BIN)/python -m images.release $(PUSH) --version $(VERSION))
	$(if $(PUSH),$(BIN)/python -m pipeline compile)

BUILD = docker build --build-arg REVISION=$(REVISION) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE))

test-containers: $(BIN)/.dev  ## build the images from scratch and test what runs in them (ten minutes; CACHED=yes)
	$(BIN)/python -m pytest tests/containers

test-dag: $(BIN)/.dev  ## of these, the whole pipeline in its containers alone: a yes, a no and a step that fails (CACHED=yes)
	$(BIN)/python -m pytest tests/containers/test_dag.py

test-faults: $(BIN)/.dev  ## kill every step at random moments, and compare what comes of it (half an hour; FIRST=, LAST=)
	$(BIN)/python -m tests.end_to_end.faults $(if $(FIRST),--first $(FIRST)) $(if $(LAST),--last $(LAST))

test-scale: $(BIN)/.dev  ## test what runs in several processes (some minutes)
	$(BIN)/python -m pytest tests/scale

manifests: $(BIN)/.dev $(KSERVE)/.made  ## check the manifests by Kubernetes' schemas and KServe's models
	$(BIN)/python -m pytest tests/images/test_manifests.py tests/images/test_overlays.py

benchmarks: $(BIN)/.dev  ## print the rates and ratios of tests/benchmarks/README.md (half an hour)
	$(BIN)/python -m tests.benchmarks.ingestion_rate
	$(BIN)/python -m tests.benchmarks.training_step
	$(BIN)/python -m tests.benchmarks.evaluation_time
	$(BIN)/python -m tests.benchmarks.gate_power
	$(BIN)/python -m tests.benchmarks.ingestion_scale
	$(BIN)/python -m tests.benchmarks.advice_time
	$(BIN)/python -m tests.benchmarks.job_on_sample
	$(BIN)/python -m tests.benchmarks.runtimes
	$(BIN)/python -m tests.benchmarks.serving_load
	$(BIN)/python -m tests.benchmarks.ranking_rate
	$(BIN)/python -m tests.benchmarks.decode_memory

lock: $(BIN)/.dev  ## write the locks anew from pyproject.toml: names, versions, hashes
	$(call lock,pyproject.toml --extra cpu --extra scale,cpu)
	$(call lock,pyproject.toml --extra gpu --extra scale,gpu)
	$(call lock,pyproject.toml --extra dev,dev)
	$(requirements) | $(call lock,-,serving)
	$(call lock,--group kserve,kserve)

# What the server alone needs: it compiles no pipeline.
requirements = $(BIN)/python -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["serving"], sep="\n")'

lock = $(BIN)/uv pip compile --quiet $(1) --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--upgrade --output-file $(LOCKS)/$(2).txt

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp a lock: the environment is made once and again when its lock changes.
$(BIN)/.cpu: $(LOCKS)/cpu.txt | $(BIN)/python
	@echo "installing what the pipeline needs into $(VENV) (about a minute)"
	$(INSTALL) --require-hashes -r $<
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/.dev: $(LOCKS)/dev.txt | $(BIN)/.cpu
	@echo "installing what the tests need into $(VENV)"
	$(INSTALL) --require-hashes -r $<
	@touch $@

$(KSERVE)/.made: $(LOCKS)/kserve.txt
	@echo "installing KServe's models into $(KSERVE)"
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

clean:  ## remove the environment and everything that runs have made
	rm -rf $(VENV) $(KSERVE) build *.egg-info
