PYTHON ?= python3
BIN = .venv/bin
BENCH ?= $(filter-out machine,$(basename $(notdir $(wildcard benchmarks/*.py))))

STUDY ?= 30 31 32 33 34 35 36 40 41 42 43 44 45 46 47

.PHONY: help demo test check format lab docs export notebooks studies bench clean

help:
	@echo 'make demo       the whole path on rendered faces, in minutes: model, table, report in runs/demo/'
	@echo 'make test       every check, every notebook, every test; as root on Debian it installs chromium where no browser is'
	@echo 'make check      format, lint, modules in step, quick tests: minutes, installs nothing'
	@echo 'make format     format notebooks, tests, tools and benchmarks, and mend what the linter can'
	@echo 'make lab        JupyterLab with nbs/welcome.ipynb (LAB=--allow-root where you are root)'
	@echo 'make docs       README.md, CONTRIBUTING.md and the site in _docs/, which needs no network'
	@echo 'make export     clean the notebooks and write the modules from them'
	@echo 'make notebooks  run the notebooks and keep their outputs (NB="02_losses 08_stages" for some)'
	@echo 'make studies    compute what is missing in data/studies/ and run studies and reproduction on it (STUDY="30 40" for some)'
	@echo 'make bench      measure against other libraries, one thread, benchmarks/results/ (BENCH="losses step" for some)'
	@echo 'make clean      remove what can be made again, but for .venv'

# The stamp is written last, so an interrupted installation is taken up again.
.venv/installed: settings.ini setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(if $(PIP_CONSTRAINT),PIP_CONSTRAINT=$(abspath $(PIP_CONSTRAINT))) $(BIN)/pip install -e '.[all,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/clef demo

# Written only when a browser and axe-core are there; without them the tests that need them are skipped.
.venv/browser: .venv/installed tools/set_up_browser.py
	$(BIN)/python tools/set_up_browser.py

test: .venv/browser
	$(BIN)/python tools/test_all.py

# What one runs before each commit; the environment is that of `make test`, so nothing is installed.
check:
	@test -e .venv/installed || { echo 'There is no .venv yet: run make demo or make test once.'; exit 1; }
	$(BIN)/python tools/test_all.py --quick

format:
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The folder of settings keeps JupyterLab from asking for news and from looking for newer versions of itself.
lab: .venv/installed
	cd nbs && JUPYTER_CONFIG_PATH="$(CURDIR)/tools/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" ../$(BIN)/jupyter lab welcome.ipynb $(LAB)

docs: .venv/installed
	$(BIN)/python tools/build_docs.py

export: .venv/installed
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/tables.py
	$(BIN)/python tools/build_docs.py --readme

notebooks: .venv/installed
	$(BIN)/python tools/run_nbs.py $(NB)

# Started again, it resumes; study 32 and 34 take the towers of 30.
studies: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tools/run_nbs.py --slow $(STUDY)

bench: .venv/installed
	$(BIN)/pip install -e '.[bench]'
	@failed=; for name in $(BENCH); do \
		printf '\n== %s\n' $$name; $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "These did not end well:$$failed"; exit 1; }

clean:
	rm -rf _proc _docs build dist runs data/cache nbs/data nbs/runs nbs/*/data nbs/*/runs nbs/nbdev.yml
