# `make help` lists what there is. Everything runs in the virtual environment .venv, made on demand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FARM := $(BIN)/render-farm
DEMO := demo
CEPH := $(PYTHON) infra/ceph/one_host.py --bucket render-farm --
BENCH_INTO = $(if $(filter small,$(BENCH)),--into build/bench,--full --into docs)
# Tests that neither measure nor start a server: two processes share them.
SIDE_BY_SIDE := $(addprefix tests/,engine job jobs output protocol set_checker views)
CEPH_PACKAGES := radosgw ceph-mon ceph-osd ceph-mgr ceph-common

.DEFAULT_GOAL := help
.PHONY: help demo demo-s3 demo-s3-inside test storm bench flame check fmt figures clean

help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(DEMO)/prompts.parquet: | $(READY)
	mkdir -p $(DEMO)
	$(BIN)/python -m jobs.scenes.prompts --out $@.part --rows 512 --row-group 128
	mv $@.part $@

demo: $(READY) $(DEMO)/prompts.parquet ## Render 512 prompts with two Ray workers into demo/run
	$(FARM) submit jobs/scenes/demo.yaml
	$(FARM) sample $(DEMO)/run --out $(DEMO)/sheet.png
	@echo; $(FARM) status $(DEMO)/run
	@echo; $(FARM) verify $(DEMO)/run --replay 8
	@echo; echo "Look at $(DEMO)/sheet.png. What to try next:"
	@printf '  %-61s %s\n' \
	  'rm -r $(DEMO)/run; make demo' 'kill it in the middle (Ctrl-C, kill -9); make demo goes on' \
	  '$(FARM) show $(DEMO)/run 7' 'what became of a row' \
	  'ls $(DEMO)/run/data' 'a webdataset, readable as it is' \
	  '$(FARM) plan jobs/scenes/demo.yaml --probe 64' 'what a job will take' \
	  'make demo-s3' 'the same into S3 (Ceph on this machine)'

demo-s3: $(READY) $(DEMO)/prompts.parquet ## The same into a Ceph S3 store that is started for it
	@command -v radosgw >/dev/null || { \
	  echo "Ceph is missing; as root: apt-get update && apt-get install -y --no-install-recommends $(CEPH_PACKAGES)"; exit 2; }
	$(CEPH) $(MAKE) --no-print-directory demo-s3-inside

demo-s3-inside:
	$(FARM) submit jobs/scenes/demo.yaml --set output.uri=s3://render-farm/scenes
	$(FARM) sample s3://render-farm/scenes --out $(DEMO)/sheet-s3.png
	@echo; $(FARM) status s3://render-farm/scenes
	@echo; $(FARM) verify s3://render-farm/scenes --replay 8
	@echo; echo "Look at $(DEMO)/sheet-s3.png. The store was started for this run and ends now."

test: $(READY) ## Run every test and a small storm (Ceph's packages are needed for some)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SIDE_BY_SIDE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(SIDE_BY_SIDE))

storm: $(READY) ## Ten times the kills of CI: more than a thousand, an hour and a half
	STORM=10 $(BIN)/python -m pytest tests/storm

bench: $(READY) ## Measure the farm and its rivals into docs/scale.md (75 minutes; BENCH=small, ONLY=name)
	$(BIN)/python -m tests.bench $(BENCH_INTO) $(addprefix --only ,$(ONLY))

flame: $(READY) $(DEMO)/prompts.parquet ## Profile a worker with the demo model into docs/worker-flame.svg
	rm -rf build/flame
	$(BIN)/py-spy record --threads --function --rate 50 --output docs/worker-flame.svg -- \
	  $(BIN)/python -m render_farm submit jobs/scenes/demo.yaml --local --set output.uri=build/flame

check: $(READY) ## Lint, types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(READY) ## Measure the figures of jobs/scenes/README.md anew
	$(BIN)/python -m jobs.scenes.evaluate --model jobs/scenes/model --prompts 500 --vae-ceiling

clean: ## Remove what make made, but for the environment
	rm -rf $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
