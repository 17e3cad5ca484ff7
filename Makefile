# Two commands set up everything on a fresh machine with Python 3.11+: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
DATA ?= data
FASHION := dcgan-fashion-mnist-conditional
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests that need neither torch nor onnx; `make test-light` runs them where there is neither.
LIGHT_TESTS := $(wildcard tests/test_infer_*.py) $(addprefix tests/test_,commands.py latents.py import_rules.py install.py spec.py pixels.py files.py old_files.py golden.py images.py metrics.py evaluation.py shards.py)

# Of test-lowest and test-newest; with torch: EXTRAS=cpu,train,export TESTS=tests/test_fuse.py
EXTRAS ?= cpu
TESTS ?= $(LIGHT_TESTS)

.PHONY: help demo test test-light test-lowest test-newest lint types check examples models sample clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)/installed  ## Install the light inference package and write grid.png
	$(DEMO)/bin/dcgan-infer --n 16 --out grid.png

test: $(VENV)/installed  ## Install everything and run all tests
	$(VENV)/bin/pytest --numprocesses auto --dist worksteal --durations 15

test-light: $(DEMO)/installed  ## Run the inference tests on the installed package, in a venv without torch
	$(DEMO)/bin/pip install --quiet pytest pytest-xdist
	! $(DEMO)/bin/python -c "import torch" 2>/dev/null
	$(DEMO)/bin/pytest -p no:cacheprovider --numprocesses auto --dist worksteal $(LIGHT_TESTS)

test-lowest:  ## Run them at the lowest versions that pyproject.toml admits
	$(PYTHON) tools/test_versions.py lowest $(EXTRAS) $(TESTS)

test-newest:  ## Run them at the newest versions that it admits
	$(PYTHON) tools/test_versions.py newest $(EXTRAS) $(TESTS)

lint: $(VENV)/installed  ## Check style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/installed  ## Check types
	$(VENV)/bin/mypy

check: lint types test test-light  ## All of the above

examples: $(VENV)/installed  ## Check every example that this machine can run against the test vectors
	$(VENV)/bin/python examples/check.py

models: $(VENV)/installed  ## Export models/ again from its checkpoints, and redraw its grids
	$(VENV)/bin/dcgan-export models/dcgan-mnist.safetensors --out models/dcgan-mnist.onnx --golden models/dcgan-mnist.golden --vectors examples/vectors/dcgan-mnist
	$(VENV)/bin/dcgan-export models/dcgan-mnist.safetensors --out models/dcgan-mnist.pt
	$(VENV)/bin/dcgan-export models/dcgan-mnist-conditional.safetensors --out models/dcgan-mnist-conditional.onnx --golden models/dcgan-mnist-conditional.golden --vectors examples/vectors/dcgan-mnist-conditional
	$(VENV)/bin/dcgan-export models/$(FASHION).safetensors --out models/$(FASHION).onnx --golden models/$(FASHION).golden --vectors examples/vectors/$(FASHION)
	$(VENV)/bin/dcgan-infer --model dcgan-mnist --seed 0 --n 100 --grid 10x10 --scale 2 --out models/dcgan-mnist.png
	$(VENV)/bin/dcgan-infer --model dcgan-mnist-conditional --seed 0 --n 100 --digits 0123456789 --scale 2 --out models/dcgan-mnist-conditional.png
	$(VENV)/bin/dcgan-infer --model $(FASHION) --seed 0 --n 100 --class t-shirt --class trouser --class pullover --class dress --class coat --class sandal --class shirt --class sneaker --class bag --class "ankle boot" --scale 2 --out models/$(FASHION).png
	$(VENV)/bin/dcgan-infer --model dcgan-mnist-conditional --n 6 --digits 0123456789 --interpolate 10 --grid 2x5 --scale 2 --out docs/walk.gif
	cd models && sha256sum *.onnx *.pt *.safetensors *.golden > SHA256SUMS

sample: $(VENV)/installed  ## Write dcgan/sample/ again from the whole of MNIST in DATA
	$(VENV)/bin/python tools/make_sample.py $(DATA)

clean:  ## Remove what the targets above made
	rm -rf $(VENV) $(DEMO) build examples/*/node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis grid.png

# torch and torchvision have to match, so they are resolved in one command.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[cpu,dev]"
	touch $@

# A plain install, not an editable one: what is missing from the wheel is missing here. Old build folders would leak into it.
$(DEMO)/installed: pyproject.toml $(shell find dcgan infer export models -type f -not -path '*/__pycache__/*')
	rm -rf build $(DEMO)
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet ".[cpu]"
	touch $@
