# Every target does all its set-up: on a fresh machine `make reproduce` or `make test` is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLES := $(VENV)/.examples
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup link examples train language-model real-layers readability whole-model store-speed start-up reproduce beyond architectures experiments speed ensemble-speed benchmark chains cross-layer-cost artifacts inspection test test-noise test-rounding test-slow test-adapters test-browser chromium adapter-overhead lint format docs notebooks site clean

help:           ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED)  ## create .venv and install everything, as pinned; skipped where done

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or newer is needed: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

examples: $(EXAMPLES)  ## the examples' model and text, into the user's cache (FAITHFULNESS_CACHE=folder for another)

$(EXAMPLES): $(INSTALLED)
	$(BIN)/faithfulness examples
	@touch $@

# for the type checker: the packages linked as an install lays them out
TYPECHECK := $(VENV)/typecheck/faithfulness_plugin
link: $(INSTALLED)
	@rm -rf $(TYPECHECK) && mkdir -p $(TYPECHECK)
	@for part in $(wildcard faithfulness_plugin/*) adapters benchmarks; do ln -sfn ../../../$$part $(TYPECHECK)/; done

reproduce: $(INSTALLED)  ## the absolute-value experiment: table, figures, result file (ARGS='--seeds 3' ...)
	$(BIN)/faithfulness reproduce $(ARGS)

# a process a core, of a thread each; a file's tests run in one process, which has their fixtures. Compiled tests are kept:
# compiling their asserts takes half the time of collecting them.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## the tests, without the slow ones (with ARGS='-k memorization' ... in one process)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(if $(ARGS),$(ARGS),$(PARALLEL))

# where rounding has the most to say, in a minute or two
SENSITIVE := tests/benchmarks/tasks tests/metrics tests/jacobian/test_active.py tests/jacobian/test_matching.py \
             tests/toy/test_circuits.py tests/benchmarks/note/trainer/test_rows.py tests/inspection/test_near_duplicates.py \
             tests/test_rounding.py tests/test_rounding_noise.py tests/test_differences.py

test-noise: $(INSTALLED)  ## the most sensitive tests, every matrix product rounded as another processor might
	$(BIN)/python -m pytest --rounding-noise $(SENSITIVE) $(if $(ARGS),$(ARGS),$(PARALLEL))

# each line is the whole suite
test-rounding: $(INSTALLED)  ## all tests as on other machines: with noise, with 2 threads, by other kernels of MKL and torch
	$(BIN)/python -m pytest --rounding-noise $(PARALLEL) $(ARGS)
	$(BIN)/python -m pytest --threads 2 $(PARALLEL) $(ARGS)
	MKL_CBWR=COMPATIBLE $(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: $(EXAMPLES)  ## the tests that train for minutes, or use the examples' model and text
	$(BIN)/python -m pytest -m slow $(ARGS)

# every other library in an environment of its own on top of .venv: only what it wants otherwise is installed again
ADAPTERS := $(VENV)/adapters
LIBRARIES := sparsify dictionary_learning circuit_tracer transformer_lens_4

$(ADAPTERS)/%/.installed: $(INSTALLED) adapters/requirements/%.txt
	rm -rf $(ADAPTERS)/$*
	$(BIN)/python -m venv --without-pip $(ADAPTERS)/$*
	$(BIN)/python -c "import site, sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
	  > "$$($(ADAPTERS)/$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(ADAPTERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement adapters/requirements/$*.txt
	@touch $@

test-adapters: $(LIBRARIES:%=$(ADAPTERS)/%/.installed)  ## the adapters with the libraries themselves; writes what works
	@for library in $(LIBRARIES); do \
	  echo "$$library:"; \
	  $(ADAPTERS)/$$library/bin/python -m pytest tests/adapters/test_$$library.py --works-with $$library $(ARGS) || exit 1; \
	done

chromium:
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } > /dev/null || \
	  { echo 'make test-browser needs a Chromium on PATH (chromium or google-chrome): install one' >&2; exit 1; }

test-browser: $(INSTALLED) chromium  ## the inspection page in a headless Chromium (Debian's, installed where there is none)
	$(BIN)/python -m pytest -m browser $(ARGS)

adapter-overhead: $(LIBRARIES:%=$(ADAPTERS)/%/.installed) $(EXAMPLES)  ## what the term costs within other libraries' trainers (keep quiet)
	for library in sparsify dictionary_learning; do \
	  $(ADAPTERS)/$$library/bin/python -m faithfulness_plugin experiment adapter --library $$library --overwrite \
	    --out benchmarks/results/adapter_overhead/$$library $(ARGS) || exit 1; \
	done

lint: link      ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(INSTALLED)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(EXAMPLES)  ## transcoders of a real language model, with and without matching (ARGS='settings.yaml' ...)
	$(BIN)/faithfulness train $(ARGS)

language-model: $(EXAMPLES)  ## the same over five seeds, into benchmarks/results/language_model
	$(BIN)/faithfulness train --seeds 5 --out benchmarks/results/language_model $(ARGS)

real-layers: $(EXAMPLES)  ## does matching make them more faithful, and at what cost? 25 minutes on 2 cores beside full stores
	$(BIN)/faithfulness experiment real-layers --preset headline --out out/real-layers --stores out/stores $(ARGS)

whole-model: $(EXAMPLES)  ## does matching make attribution graphs tell the truth? a first look with every layer replaced, 10 minutes on 2 cores
	$(BIN)/faithfulness experiment whole-model --preset small --out out/whole-model --stores out/stores_whole $(ARGS)

readability: $(EXAMPLES)  ## does matching cost readability? of the transcoders that real-layers left in out/real-layers
	$(BIN)/faithfulness experiment readability --transcoders out/real-layers --out benchmarks/results/readability $(ARGS)

store-speed: $(EXAMPLES)  ## training from a store beside training from the model (keep the machine quiet)
	$(BIN)/faithfulness experiment store --overwrite --out benchmarks/results/store_speed $(ARGS)

start-up: $(INSTALLED)  ## how soon commands and imports answer, beside `import torch` (keep the machine quiet)
	$(BIN)/faithfulness experiment start-up --overwrite --out benchmarks/results/start_up $(ARGS)

# other widths, numbers of ones, penalties and seeds, with the same coefficients; a few minutes each
BEYOND := benchmarks/results/beyond
BEYOND_RUN := $(BIN)/faithfulness reproduce --seeds 5 --seed 100

beyond: $(INSTALLED)  ## the experiment beyond its default setting, into benchmarks/results/beyond
	$(BEYOND_RUN) --d-in 12 --d-sae 24 --density 0.133 --out $(BEYOND)/narrow_twice
	$(BEYOND_RUN) --d-in 16 --d-sae 32 --n-ones 4 --out $(BEYOND)/four_ones_twice
	$(BEYOND_RUN) --d-in 20 --n-ones 4 --density 0.08 --out $(BEYOND)/four_ones
	$(BEYOND_RUN) --d-in 32 --d-sae 128 --n-ones 4 --density 0.05 --out $(BEYOND)/wide
	$(BEYOND_RUN) --sparsity-coefficient 0.4 --out $(BEYOND)/sparser

# TopK, BatchTopK and JumpReLU at several sparsities, with the same coefficients
ARCHITECTURES := benchmarks/results/architectures
ARCHITECTURES_RUN := $(BIN)/faithfulness reproduce --seeds 5

architectures: $(INSTALLED)  ## the experiment with every architecture, into benchmarks/results/architectures
	$(ARCHITECTURES_RUN) --architecture topk --k 1 --out $(ARCHITECTURES)/topk_1
	$(ARCHITECTURES_RUN) --architecture topk --k 2 --out $(ARCHITECTURES)/topk_2
	$(ARCHITECTURES_RUN) --architecture batch_topk --k 1.3 --out $(ARCHITECTURES)/batch_topk_1.3
	$(ARCHITECTURES_RUN) --architecture batch_topk --k 1.6 --out $(ARCHITECTURES)/batch_topk_1.6
	$(ARCHITECTURES_RUN) --architecture jumprelu --l0-coefficient 0.1 --out $(ARCHITECTURES)/jumprelu

# every experiment of the note, its controls and the audit; a preset that is complete is not run again
TOY := benchmarks/results/toy
PRESETS := emergence circuits coefficient coefficient_needed dynamics near_point gradient_masking superposition \
           pareto memorizing_layer shuffled_layer audit

experiments: $(INSTALLED)  ## all presets of `faithfulness scan` and the results page, into benchmarks/results/toy
	for preset in $(PRESETS); do $(BIN)/faithfulness scan --preset $$preset --out $(TOY)/$$preset || exit 1; done
	$(BIN)/faithfulness report --results $(TOY)

speed: $(INSTALLED)  ## step times and memory on this machine, into benchmarks/results/speed (keep the machine quiet)
	$(BIN)/faithfulness experiment speed --overwrite --out benchmarks/results/speed $(ARGS)

ensemble-speed: $(INSTALLED)  ## the toy ensemble beside a loop, into benchmarks/results/ensemble_speed (likewise)
	$(BIN)/faithfulness experiment ensemble --overwrite --out benchmarks/results/ensemble_speed $(ARGS)

benchmark: $(INSTALLED)  ## the faithfulness benchmark at its standard size and its leaderboard; about an hour on 2 cores
	$(BIN)/faithfulness bench run --out benchmarks/results/faithfulness/standard $(ARGS)
	$(BIN)/faithfulness bench leaderboard benchmarks/results/faithfulness/standard --out benchmarks/results/faithfulness

chains: $(INSTALLED)  ## the benchmark's second track: which hops cross-layer transcoders keep; 20 minutes of one core
	$(BIN)/faithfulness experiment chains --preset standard --out benchmarks/results/chains/standard $(ARGS)
	$(BIN)/faithfulness experiment chains --preset long --out benchmarks/results/chains/long $(ARGS)

cross-layer-cost: $(INSTALLED)  ## what a pair of layers costs a cross-layer transcoder; 2 minutes
	$(BIN)/faithfulness experiment cross-layer-cost --out benchmarks/results/cross_layer_cost $(ARGS)

# transcoders of block 10, without and with matching, in pairs of equal seeds
SEEDS := 0 1 2
TRAINED := out/train/transcoders/block10_coefficient

artifacts: $(EXAMPLES)  ## the benchmark's track of artifacts on transcoders of the offline model, into benchmarks/results/artifacts
	$(BIN)/faithfulness train --seeds $(words $(SEEDS)) --out out/train
	$(BIN)/faithfulness measure --out benchmarks/results/artifacts $(ARGS) \
	  $(foreach s,$(SEEDS),none_seed$(s)=$(TRAINED)0_seed$(s) jvp_seed$(s)=$(TRAINED)0.2_seed$(s))

# what the datapoint score is worth, what looking costs, and the README's pictures of the page
INSPECTION := benchmarks/results/inspection

inspection: $(EXAMPLES) chromium  ## the inspection's own benchmark, into benchmarks/results/inspection (keep the machine quiet)
	$(BIN)/faithfulness experiment inspection-toy --jobs -1 --out $(INSPECTION)/toy
	$(BIN)/faithfulness experiment real-layers --settings benchmarks/inspection/passage.yaml --out out/passage --stores out/stores_passage
	$(BIN)/faithfulness experiment inspection-passage --transcoders out/passage --out $(INSPECTION)/passage $(ARGS)
	$(BIN)/python -m faithfulness_plugin.benchmarks.inspection.screenshots out/passage --out $(INSPECTION)

docs: $(INSTALLED)  ## tables and figures of README and benchmarks/results, from the committed result files
	$(BIN)/python -m faithfulness_plugin.benchmarks.readme

notebooks: $(EXAMPLES)  ## execute the notebooks of the site again, and keep their outputs
	$(BIN)/python docs/site/notebooks.py

# NO_MKDOCS_2_WARNING: mkdocs-material's advertisement of its successor is no warning about this site
site: link      ## the documentation into site/, which opens from disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'site/index.html'

clean:          ## remove the environment and all caches
	rm -rf $(VENV) build dist site .cache *.egg-info .pytest_cache .ruff_cache .hypothesis
