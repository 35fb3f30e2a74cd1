PYTHON ?= python3
DATA_DIR ?= $(if $(wildcard data/FashionMNIST/raw),data/,../shared/data)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-narrow test-faults test-all lint models results tables setup clean

setup: $(VENV)/.installed

# Made again when a requirement changes; `pip check` would not see a half-finished install, the stamp does.
$(VENV)/.installed: requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or later is needed, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

demo: setup
	$(BIN)/python train.py -m custom -d digits --image_size 32 --batch_size 64 --max_epoch 20 --wp_epoch 2 --ema
	$(BIN)/python eval.py -w weights/digits/custom/best_model.pth
	$(BIN)/python export.py -w weights/digits/custom/best_model.pth -e onnx
	$(BIN)/python report.py -w weights/digits/custom
	$(BIN)/python predict.py -i docs/images/digit.png -m weights/digits/custom/converted_models/custom_onnx.onnx

# Half the cores' worth of processes would wait for each other's threads: one thread each, one process a core.
test: setup
	OMP_NUM_THREADS=1 DATA_DIR=$(DATA_DIR) $(BIN)/python -m pytest -n auto -m "not slow and not faults"

# Damaged and crafted files by the thousand, killed runs, full disks: docs/reliability.md has the figures.
test-faults: setup
	OMP_NUM_THREADS=1 DATA_DIR=$(DATA_DIR) $(BIN)/python -m pytest -n auto -m faults

# What depends on the processor, with the instruction sets of an older one: no AVX-512, VNNI or bf16.
test-narrow: setup
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 DATA_DIR=$(DATA_DIR) $(BIN)/python -m pytest -n auto \
		-m "not slow and not faults" tests/export tests/kernels tests/runtime tests/training tests/inference tests/scripts/test_quantize.py \
		tests/scripts/test_benchmark.py tests/scripts/test_export.py tests/scripts/test_train.py

test-all: setup
	OMP_NUM_THREADS=1 DATA_DIR=$(DATA_DIR) $(BIN)/python -m pytest -n auto

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/hadolint Dockerfile

# ONNX, TorchScript, torch.export, fp16 and int8 of every published checkpoint, beside it, each compared with the checkpoint.
models: setup
	for file in weights/FashionMNIST/*/best_model.pth; do \
		for engine in onnx torchscript pt2; do \
			$(BIN)/python export.py -w $$file -e $$engine --data_dir $(DATA_DIR) || exit; done; \
		for scheme in fp16 int8; do \
			$(BIN)/python quantize.py -w $$file --scheme $$scheme --data_dir $(DATA_DIR) || exit; done; done

# The figures of the published models, measured anew into results/reference/published/.
results: setup
	$(BIN)/python benchmarks/published.py --data_dir $(DATA_DIR)

# The tables of README.md and docs/, from the scripts' flags and from results/.
tables: setup
	$(BIN)/python docs/make_tables.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
