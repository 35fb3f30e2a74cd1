"""What the scripts do today, as values in pinned.json: weights of short runs, keys of every JSON, flags of every script.

    python tests/pinned.py                    show what differs from pinned.json
    python tests/pinned.py --record           write what the scripts do now, benchmark.py included
    python tests/pinned.py --record keys      only the keys; also: flags, weights

The scripts are black boxes here: they run in processes of their own, and only what they write is looked at.

A hash of weights depends on the version of torch and on the processor, so it stands under a key that names both. The runs
are narrowed to one thread and to AVX2, which makes the key the same on more machines. Where no hash is recorded for a
machine, the statistics of the weights are compared with a tolerance instead.
"""

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import pathlib
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parent.parent
RECORDED = HERE.with_name("pinned.json")
NARROW = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(ROOT),
}

COMMON = ("train.py", "-d", "digits", "--precision", "fp32", "--num_workers", 0, "--seed", 3)
RUNS = {
    "custom": (*COMMON, "-m", "custom", "--image_size", 16, "--max_epoch", 2, "--ema", "--accumulation", 2, "--batch_size", 8,
               "--wp_epoch", 0.5, "--plain_epochs", 0),
    "resnet18": (*COMMON, "-m", "resnet18", "--image_size", 32, "--max_epoch", 1, "--val_fraction", 0.8, "--batch_size", 32,
                 "--base_lr", 5e-4, "--mixup", 0.2, "--cutmix", 1, "--random_erasing", 0.3, "--label_smoothing", 0.1),
    "mobilenet_v3_small": (*COMMON, "-m", "mobilenet_v3_small", "--image_size", 32, "--max_epoch", 1, "--val_fraction", 0.8,
                           "--batch_size", 32, "--plain_epochs", 1, "--optimizer", "sgd", "--base_lr", 0.05, "--clip_grad", 1,
                           "--balanced_sampler"),
}  # fmt: skip

BEST = "weights/digits/custom/best_model.pth"
CONVERTED = "weights/digits/custom/converted_models"
TOOLS = ("fvcore", "ptflops", "thop", "torchscan")
COMMANDS = [
    ("eval.py", "-w", BEST),
    ("eval.py", "-w", BEST, "--split", "val", "--output", "val.json"),
    ("export.py", "-w", BEST, "-e", "onnx", "--output", "custom.onnx"),
    ("quantize.py", "-w", BEST),
    ("quantize.py", "-w", BEST, "--scheme", "int8", "--calibration", 16),
    ("predict.py", "-m", "custom.onnx", "-i", "photos/train/a", "--json", "predict.json"),
    ("predict_ckpoint.py", "-w", BEST, "-i", "photos/train/a", "--json", "predict_ckpoint.json"),
    ("check_dataset.py", "-d", "photos", "--json", "check_dataset.json"),
    ("receptive_field.py", "-m", "custom", "--image_size", 32, "--images", 2),
    ("complexity.py", "-m", "custom", "--image_size", 32),
    *((f"complexity_{tool}.py", "-m", "custom", "--image_size", 32) for tool in TOOLS),
]
WRITTEN = {
    "history.json": "weights/digits/custom/history.json",
    "eval.py": "results/accuracy/digits/custom.json",
    "eval.py --split val": "val.json",
    "quantize.py": "results/quantization/digits/custom_fp16.json",
    "quantize.py --scheme int8": "results/quantization/digits/custom_int8.json",
    "predict.py --json": "predict.json",
    "predict_ckpoint.py --json": "predict_ckpoint.json",
    "check_dataset.py --json": "check_dataset.json",
    "receptive_field.py": "results/receptive_field/custom_32px_2images.json",
    "complexity.py": "results/complexity/custom_32px_complexity.json",
    **{f"complexity_{tool}.py": f"results/complexity/custom_32px_complexity_{tool}.json" for tool in TOOLS},
}
BENCHMARK = [("benchmark.py", "-w", BEST, "--all")]
BENCHMARK_WRITTEN = {"benchmark.py": "results/benchmark/digits_custom.json"}
# Dictionaries whose keys are names of classes, layers, operators or files: their keys count as "*".
NAMED = ("per class", "images.train", "images.val", "missing", "by_operator", "unknown_operators")


# Running the scripts


def run_all(folder, commands, stop_in_epoch_2=False):
    """Run scripts one after another in one narrowed process, in `folder`. Returns the exit status of each."""
    request = json.dumps([[list(map(str, command)) for command in commands], stop_in_epoch_2])
    environment = os.environ | NARROW | {"XDG_CACHE_HOME": str(pathlib.Path(folder, "cache"))}
    command = [sys.executable, str(HERE), "--run", request]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=580)
    if done.returncode:
        raise RuntimeError(f"{request}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _run_here(commands, stop_in_epoch_2):
    """The inside of `run_all`: prints the list of exit statuses as the last line."""
    if stop_in_epoch_2:
        sys.stdout = _Watched(sys.stdout)
    statuses = []
    for script, *flags in commands:
        sys.argv = [str(ROOT / script), *flags]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            statuses.append(0)
        except SystemExit as error:
            statuses.append(error.code or 0)
    print("\n" + json.dumps(statuses))


class _Watched:
    """A stream that sends SIGTERM to its process a moment after the line of epoch 1, so in the middle of epoch 2."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        if re.search(r"epoch +1/", text) and "train" in text:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return self.stream.write(text)


# 1. Weights


def run_training(folder, name, interrupted=False):
    """Train one of RUNS in `folder`, interrupted in epoch 2 and resumed if asked, and return what `look_at` finds."""
    flags = RUNS[name]
    if interrupted:
        expect(run_all(folder, [flags], stop_in_epoch_2=True), [143])
        flags = (*flags, "--resume", "auto")
    expect(run_all(folder, [flags]), [0])
    return look_at(pathlib.Path(folder, "weights", "digits", name))


def expect(statuses, wanted):
    if statuses != wanted:
        raise RuntimeError(f"exit statuses {statuses} instead of {wanted}")


def look_at(folder):
    """`hashes` of the weights in the checkpoints of a run, and `statistics` that other processors give nearly alike."""
    import torch

    best, last = (torch.load(folder / name, weights_only=True) for name in ("best_model.pth", "last.pth"))
    weights = {"best": best["model"], "last": last["model"]} | ({"ema": last["ema"]["model"]} if last["ema"] else {})
    history = json.loads((folder / "history.json").read_text())
    statistics = {"final Acc@1": history["final"]["Acc@1"], "final loss": history["final"]["loss"]}
    for record in history["epochs"]:
        statistics |= {f"epoch {record['epoch']} {split} loss": record[split]["loss"] for split in ("train", "val")}
        statistics[f"epoch {record['epoch']} lr"] = record["lr"]
    for name, state in weights.items():
        floating = {key: value.double() for key, value in state.items() if value.is_floating_point()}
        statistics[f"{name} norm"] = sum(value.square().sum().item() for value in floating.values()) ** 0.5
        statistics[f"{name} tensors"] = len(state)
        statistics[f"{name} numbers"] = sum(value.numel() for value in state.values())
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in statistics.items()}
    return {"hashes": {name: _digest(state) for name, state in weights.items()}, "statistics": rounded}


def _digest(state):
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def machine_key():
    """What a hash depends on, besides the code: torch, its instruction set in a narrowed process, the processor."""
    text = "import torch; print(torch.__version__, torch.backends.cpu.get_cpu_capability(), sep=', ')"
    done = subprocess.run([sys.executable, "-c", text], env=os.environ | NARROW, capture_output=True, text=True, check=True)
    facts = {}
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(reversed([tuple(map(str.strip, line.partition(":")[::2])) for line in lines if ":" in line]))
    processor = " ".join(facts.get(name, "") for name in ("model name", "cpu family", "model")).strip()
    return f"{done.stdout.strip()}, {processor or platform.processor() or platform.machine()}"


def unlike(recorded, found):
    """Lines on the statistics that differ by more than another processor can explain, and on those that are not in both."""
    lines = [f"{name}: only in one of the two" for name in sorted(recorded.keys() ^ found.keys())]
    for name in recorded.keys() & found.keys():
        # Rounding errors grow in training: a loss by some percent, an accuracy by some images of 359, a norm hardly.
        slack = 0.05 if "Acc" in name else recorded[name] * (0.15 if "loss" in name else 0.02 if "norm" in name else 1e-6)
        if abs(recorded[name] - found[name]) > slack:
            lines.append(f"{name}: {recorded[name]} was recorded, {found[name]} is found")
    return lines


# 2. Keys


def keys_of(value, path=""):
    """The set of paths in a JSON value: `epochs[].train.loss`. Keys that are names of things are `*`."""
    if isinstance(value, dict) and value:
        star = path.endswith(NAMED)
        return set().union(*(keys_of(inner, f"{path}.{'*' if star else key}".strip(".")) for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(keys_of(inner, f"{path}[]") for inner in value)) or {f"{path}[]"}
    return {path}


def prepare(folder):
    """What the commands need in `folder`: a trained checkpoint, and an image folder with a file that is no image."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, label in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        place = pathlib.Path(folder, "photos", split, label)
        place.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(random.integers(0, 255, (20 + i, 24, 3), dtype=np.uint8)).save(place / f"{i}.png")
        shutil.copy(place / "0.png", place / "again.png")
    pathlib.Path(folder, "photos", "train", "a", "broken.png").write_bytes(b"no image")
    shutil.copy(place / "1.png", pathlib.Path(folder, "photos", "train", "b", "elsewhere.png"))
    expect(run_all(folder, [RUNS["custom"]]), [0])


def run_commands(folder):
    """Run COMMANDS in a prepared folder and return {what: sorted paths} of all that they write."""
    statuses = run_all(folder, COMMANDS)
    meant = (0, 1, 3, 4)  # findings of check_dataset.py, unreadable files, lost accuracy
    bad = [(c, s) for c, s in zip(COMMANDS, statuses, strict=True) if s not in meant]
    if bad:
        raise RuntimeError(f"failed: {bad}")
    return read_keys(folder, WRITTEN) | read_cards(folder)


def read_keys(folder, places):
    return {what: sorted(keys_of(json.loads(pathlib.Path(folder, place).read_text()))) for what, place in places.items()}


def read_cards(folder):
    import onnx
    import torch

    checkpoint = torch.load(pathlib.Path(folder, BEST), weights_only=True)["card"]
    cards = {"card in a checkpoint": checkpoint}
    for what, path in (("exported", "custom.onnx"), ("int8", f"{CONVERTED}/custom_int8.onnx")):
        entries = {entry.key: entry.value for entry in onnx.load(pathlib.Path(folder, path)).metadata_props}
        cards[f"card in an {what} ONNX file"] = json.loads(entries["model_card"])
    return {what: sorted(keys_of(card)) for what, card in cards.items()}


def run_benchmark(folder):
    """`benchmark.py --all` in a prepared folder: {what: sorted paths}."""
    expect(run_all(folder, BENCHMARK), [0])
    return read_keys(folder, BENCHMARK_WRITTEN)


# 3. Flags


def flags_of_all():
    """{script: {flag: facts}} of every script that stands beside the README, and of benchmarks/."""
    scripts = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/[!_]*.py")])
    environment = os.environ | NARROW
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE), "--flags", json.dumps(scripts)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def _flags_here(scripts):
    """The inside of `flags_of_all`: every script runs until its parser is asked, which tells instead of parsing."""
    seen = []

    class Asked(BaseException):
        pass

    def tell(parser, *args, **kwargs):
        seen.append(parser)
        raise Asked

    argparse.ArgumentParser.parse_known_args = tell
    found = {}
    for script in scripts:
        seen.clear()
        sys.argv = [str(ROOT / script)]
        sys.path[0] = str((ROOT / script).parent)
        with contextlib.suppress(Asked, SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
        if seen:  # benchmarks/pairs.py is no script
            found[script] = {", ".join(action.option_strings) or action.dest: _facts(action) for action in seen[0]._actions}
    print("\n" + json.dumps(found))


def _facts(action):
    kind = type(action).__name__.strip("_").removesuffix("Action")
    facts = {
        "action": re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower(),
        "default": _default(action.default),
        "type": getattr(action.type, "__name__", None),
        "choices": None if action.choices is None else list(action.choices),
        "nargs": action.nargs,
        "const": action.const,
        "required": action.required,
    }
    return json.loads(json.dumps(facts, default=str))


def _default(value):
    if value == argparse.SUPPRESS:
        return None
    return "the folder for temporary files" if value == tempfile.gettempdir() else value


# Comparing and recording


def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def as_text(value):
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)


def difference(wanted, found):
    """What differs, as lines of a diff; empty where nothing does."""
    lines = difflib.unified_diff(
        as_text(wanted).splitlines(), as_text(found).splitlines(), "pinned.json", "found", n=3, lineterm=""
    )
    return "\n".join(lines)


def find_keys():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        return {"keys": run_commands(folder) | run_benchmark(folder)}


def find_weights():
    runs = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = run_training(folder, name)
    hashes = {machine_key(): {name: run["hashes"] for name, run in runs.items()}}
    return {"hashes": hashes, "statistics": {name: run["statistics"] for name, run in runs.items()}}


PARTS = {"flags": lambda: {"flags": flags_of_all()}, "keys": find_keys, "weights": find_weights}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "write these parts of pinned.json (all by default); with the weights, hashes of other machines are dropped"
    parser.add_argument("--record", nargs="*", choices=list(PARTS), metavar="PART", help=about)
    args = parser.parse_args()
    found = {}
    for name in args.record or PARTS:
        found |= PARTS[name]()
    known = recorded() if RECORDED.exists() else {}
    if args.record is None:
        print(difference(known, known | found) or "as recorded")
    else:
        RECORDED.write_text(as_text(known | found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        sys.path[0] = str(ROOT)
        _run_here(*json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--flags"]:
        _flags_here(json.loads(sys.argv[2]))
    else:
        main()
