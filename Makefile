# Each target makes .venv and installs what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)

.PHONY: demo test test-slow test-transformers browser-test cluster-test cluster-soak check docs format install lock clean

demo: install  ## images to a report on the shipped digits, about 3 minutes on two idle cores; a second call takes seconds
	$(BIN)/tokenbridge demo

test: install  ## the tests, at most 4 minutes on two cores
	$(BIN)/pytest -m "not slow and not cluster and not browser" -n 2 --dist loadfile

test-slow: install  ## the longer ones, such as training the shipped weights again; CI runs them too
	$(BIN)/pytest -m "slow and not cluster" -n 2 --dist worksteal

test-transformers: install  ## AutoencoderRAE; the package is kept apart, since every start with it takes a second longer
	test -f build/transformers/whole || { $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target build/transformers transformers==5.24.0 tokenizers==0.23.3 && touch build/transformers/whole; }
	PYTHONPATH=build/transformers $(BIN)/pytest tests/tokenbridge/autoencoders/test_classes.py -k AutoencoderRAE

browser-test: install  ## MLflow's page and the reports in a real Chromium, without a window
	$(BIN)/pytest -m browser tests/browser

cluster-test: install  ## on a real Slurm that it starts on this machine and stops again
	$(BIN)/pytest -m cluster tests/cluster -n 2 --dist loadfile

cluster-soak: install  ## faults at random moments of a sweep: ROUNDS=20 of them, from a random SEED unless told
	seed=$${SEED:-$$(shuf -i 0-999999 -n 1)}; echo "SEED=$$seed ROUNDS=$(or $(ROUNDS),1)"; \
	SEED=$$seed ROUNDS=$(or $(ROUNDS),1) $(BIN)/pytest -m cluster tests/cluster/test_faults.py

check: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: install  ## pages of the guides and docstrings, in build/docs; a warning is an error
	$(BIN)/python .ci/pages.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip takes one, and skips errors too
	rm -f $(VENV)/installed-*
	touch $@

lock:  ## write requirements.lock again from pyproject.toml, in a fresh environment
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet ".[dev]"
	.venv-lock/bin/python -m pip freeze --exclude tokenbridge \
		| sed -E '/^(cuda|hadolint|nvidia|triton)/s/$$/ ; sys_platform == "linux" and platform_machine == "x86_64"/' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf runs reports/demo
