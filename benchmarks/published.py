"""Measure the models that weights/ publishes anew, by the scripts, into results/reference/published/.

  python benchmarks/published.py --data_dir data/           # or: make results
  python benchmarks/published.py --data_dir data/ --models custom

For every checkpoint in weights/FashionMNIST/: accuracy of the checkpoint and of each file beside it, what int8 costs and
gains, every kind of file side by side, operations and receptive field. The scripts run in a temporary folder with a copy of
the published files, so they write nothing into the project; what they wrote is then kept, and the commands beside it in
results/reference/published/commands.json, with the date and the machine of each model.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import ROOT, save_cases
from utils.core import cli
from utils.core.errors import UserError, run

PUBLISHED = ROOT / "weights" / "FashionMNIST"
REFERENCE = ROOT / "results" / "reference" / "published"
KEPT = (".json", ".png", ".txt")


def parser():
    names = sorted(path.parent.name for path in PUBLISHED.glob("*/best_model.pth"))
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw")
    p.add_argument("--models", nargs="+", default=names, choices=names, help="which of weights/FashionMNIST/")
    return p


def commands(model):
    """The command lines that measure one published model; each starts with a script."""
    folder = f"weights/FashionMNIST/{model}"
    checkpoint, files = f"{folder}/best_model.pth", sorted((PUBLISHED / model / "converted_models").glob("*.onnx"))
    for weights in (checkpoint, *(f"{folder}/converted_models/{path.name}" for path in files)):
        yield f"eval.py -w {weights}"
    yield f"eval.py -w {checkpoint} --tta flip"
    yield f"quantize.py -w {checkpoint} --scheme int8"
    yield f"benchmark.py -w {checkpoint} --all"
    yield f"complexity.py -w {checkpoint}"
    yield f"receptive_field.py -w {checkpoint}"


def measure(line, data_dir, folder):
    """Run one command line in `folder`. Raises UserError with its last word where it fails."""
    script, *flags = line.split()
    reads_data = ["--data_dir", str(data_dir)] if script in ("eval.py", "quantize.py", "benchmark.py") else []
    print(line, flush=True)
    done = subprocess.run([sys.executable, str(ROOT / script), *flags, *reads_data], cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 4):  # 4: quantized, and less accurate than allowed; the figures say so
        raise UserError(f"{line} ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")


def keep(found, model):
    """Copy what was measured of one model, so that it is not lost if the next one fails, and note how."""
    kept = sorted(path.relative_to(found) for path in found.rglob("*") if path.suffix in KEPT)
    for path in kept:
        (REFERENCE / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found / path, REFERENCE / path)
    threads = os.environ.get("OMP_NUM_THREADS")
    save_cases(REFERENCE / "commands.json", {model: {"OMP_NUM_THREADS": threads, "commands": list(commands(model))}})
    print(f"written: {len(kept)} files in {REFERENCE.relative_to(ROOT)}", flush=True)
    shutil.rmtree(found)


def main():
    args = parser().parse()
    data_dir = pathlib.Path(args.data_dir).resolve()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PUBLISHED, pathlib.Path(folder, "weights", "FashionMNIST"))
        for model in args.models:
            for line in commands(model):
                measure(line, data_dir, folder)
            keep(pathlib.Path(folder, "results"), model)


if __name__ == "__main__":
    run(main)
