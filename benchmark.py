"""Compare everything that is made from one checkpoint: size, accuracy, latency, throughput, cold start, in one table.

    python benchmark.py --weights weights/FashionMNIST/resnet18/best_model.pth          the files that are there
    python benchmark.py --weights weights/FashionMNIST/resnet18/best_model.pth --all    makes those that are not, first

Latency and throughput are those of the network alone; the cold start is that of a whole predict.py (predict_ckpoint.py for
a checkpoint) with one picture, from the start of the process to its end. A checkpoint must be fp32; it is the first row.
"""

import dataclasses
import functools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch

from models.checkpoint import load_model
from models.registry import list_models
from utils.complexity.exact import analyse
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_data, add_device, add_model
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, write_json
from utils.core.images import preprocess
from utils.core.machine import keep_memory
from utils.core.text import si, table
from utils.data.loader import eval_batches
from utils.data.samples import calibration_images, example_images, find_dataset, spread
from utils.evaluation import plots
from utils.evaluation.evaluate import evaluate
from utils.evaluation.latency import race
from utils.evaluation.metrics import headline, wilson_interval
from utils.export.quantize import QUANTIZERS
from utils.export.verify import export_model
from utils.inference.formats import FORMATS, converted_folder, exported
from utils.inference.predictors import open_predictor
from utils.runtime.device import choose_device, describe_machine, share_cores

BATCHES = (1, 8, 32, 128)
COLD_STARTS = 3
CALIBRATION = 256  # images, as quantize.py takes unless told otherwise


@dataclass
class Variant:
    """One kind of file: what it is called, where it lies, and `make()`, which writes it there (None: it must exist)."""

    format: str  # its name in FORMATS
    precision: str
    path: pathlib.Path
    make: object = None
    devices: tuple = ("cpu", "cuda")

    def device(self, wanted):
        """Where to run it, as a flag: `wanted`, unless it runs on CPUs alone."""
        return wanted if "cuda" in self.devices else "cpu"

    @property
    def name(self):
        return f"{FORMATS[self.format].shown} {self.precision}"


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), required_weights=True)
    add_card_facts(model)
    parser.add_argument("--all", action="store_true", help="make what is missing, or older than the checkpoint, first")
    add_data(parser, default=None)
    add_device(parser)
    return parser


def variants(weights, network, card, dataset):
    """Every kind of file that the tables of schemes and engines know, by engine, the checkpoint first."""
    folder = converted_folder(weights)
    images, source = example_images(card, 64)
    found = [Variant("checkpoint", "fp32", pathlib.Path(weights))]
    for scheme, quantizer in QUANTIZERS.items():
        path = folder / quantizer.file_name(card.architecture)

        def quantize(quantizer=quantizer, path=path):
            calibration = calibration_images(dataset.train, CALIBRATION) if dataset and quantizer.calibrated else []
            quantizer.apply(network, card, path, calibration)

        found.append(Variant(quantizer.format, scheme, path, quantize, quantizer.devices))
    half = [(engine, True) for engine in exported() if "fp16" in FORMATS[engine].options]
    for engine, fp16 in [*((engine, False) for engine in exported()), *half]:
        path = folder / f"{card.architecture}_{engine}{'_fp16' * fp16}{FORMATS[engine].suffix}"

        def export(engine=engine, fp16=fp16, path=path):
            export_model(network, card, engine, path, images=images, source=source, fp16=fp16)

        found.append(Variant(engine, "fp16" if fp16 else "fp32", path, export))
    order = list(dict.fromkeys(variant.format for variant in found))
    precisions = ["fp32", *QUANTIZERS]
    return sorted(found, key=lambda variant: (order.index(variant.format), precisions.index(variant.precision)))


def take_stock(found, weights, everything):
    """`(usable variants, {name: why not})`; with `everything`, what is missing or older than the checkpoint is made."""
    made_at = pathlib.Path(weights).stat().st_mtime
    usable, missing = [], {}
    for variant in found:
        fresh = variant.path.exists() and variant.path.stat().st_mtime >= made_at
        if not fresh and everything and variant.make:
            progress(f"making {variant.path.name}")
            try:
                variant.make()
                fresh = True
            except UserError as error:
                missing[variant.name] = str(error)
                continue
        if fresh:
            usable.append(variant)
        else:
            what = "older than the checkpoint" if variant.path.exists() else "not there"
            missing[variant.name] = f"{variant.path.name} is {what}; --all makes it"
    return usable, missing


def progress(text):
    print(text, file=sys.stderr, flush=True)


def accuracy(file, split, args):
    """`Acc@1` with its interval and `Acc@5` of an opened file on a split, fractions of 1."""
    device, threads = torch.device(file.device), torch.get_num_threads()
    workers = share_cores(args.num_workers if split.paths else 0, device)[1]
    answers = evaluate(file.predict, eval_batches(split, file.card, args.batch_size, device, workers=workers))
    torch.set_num_threads(threads)
    scores = headline(answers.logits, answers.labels)
    correct = round(scores["Acc@1"] * len(split))
    return scores | {"Acc@1 95 % interval": list(wilson_interval(correct, len(split)))}


def speeds(files, samples):
    """{name: [Latency for each of BATCHES]} of opened files, which take turns at every batch size."""
    times = {name: [] for name in files}
    for size in BATCHES:
        progress(f"timing batches of {size}")
        images = np.resize(samples, (size, *samples.shape[1:]))
        calls = {name: functools.partial(file, images) for name, file in files.items()}
        result = race(calls, size, most=60, seconds=2.0)
        for name in files:
            times[name].append(result[name])
    return times


def cold_start(variant, picture, args):
    """Median seconds of a whole process that answers one picture with the file. Raises UserError where it fails."""
    checkpoint = variant.format == "checkpoint"
    script = pathlib.Path(__file__).with_name("predict_ckpoint.py" if checkpoint else "predict.py")
    command = [sys.executable, str(script), "-i", str(picture), "-w" if checkpoint else "-m", str(variant.path)]
    if checkpoint and variant.make is None:  # the checkpoint itself may need what was said of it here
        for flag in {"model", "classes", "image_size"} & args.given:
            command += [f"--{flag}", str(getattr(args, flag))]
    command += ["--device", variant.device(args.device)]
    seconds = []
    for _ in range(COLD_STARTS):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        if done.returncode:
            raise UserError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return statistics.median(seconds)


def measure(usable, split, samples, loading, args):
    """A list of dicts, one a file, in the order of `usable`; `samples` are Pillow images."""
    rows, files = [], {}
    threads = torch.get_num_threads()  # one a core, unless OMP_NUM_THREADS says otherwise; the same for every engine
    for variant in usable:
        given = loading if variant.make is None else {}
        file = open_predictor(variant.path, variant.format, device=variant.device(args.device), threads=threads, **given)
        if file.warning():
            progress(file.warning())
        files[variant.name] = file
    card = next(iter(files.values())).card
    times = speeds(files, np.concatenate([preprocess(image, card) for image in samples]))
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder, "picture.png")
        samples[0].save(picture)
        for variant in usable:
            progress(f"measuring {variant.name}")
            file, fastest = files[variant.name], max(times[variant.name], key=lambda latency: latency.images_per_second)
            row = {"name": variant.name, "file": str(variant.path), "arithmetic": file.arithmetic, "device": file.device}
            row |= {"bytes": file.bytes} | (accuracy(file, split, args) if split else {})
            row |= {"latency": [dataclasses.asdict(latency) for latency in times[variant.name]]}
            row |= {"best batch": fastest.batch, "images/s": fastest.images_per_second}
            rows.append(row | {"cold start s": cold_start(variant, picture, args)})
    return rows


def describe(result):
    """The figures of the network in one line, the table, and what is not in it."""
    machine, rows = result["machine"], result["files"]
    where = f"Acc@1 and Acc@5 on {result['measured on']}: {result['images']:,} images" if result["images"] else "no accuracy"
    used = sorted({row["device"].partition(":")[0] for row in rows})
    places = " and ".join(machine["gpu" if device == "cuda" else "cpu"] for device in used)
    lines = [
        f"{result['model']} at {result['image_size']} px, {si(result['parameters'])} parameters, {si(result['MACs'], 'MAC')}",
        f"{where}; latency on {places}, {result['threads']} thread{'s' * (result['threads'] != 1)}",
    ]
    header = ["file", "size MB", "Acc@1 %", "Acc@5 %", "ms, batch 1", "10th–90th %", "images/s", "at batch", "cold start s"]
    cells = []
    for row in rows:
        single = row["latency"][0]
        scores = [f"{100 * row[key]:.2f}" if key in row else "–" for key in ("Acc@1", "Acc@5")]
        times = [f"{single['median_ms']:.3g}", f"{single['low_ms']:.3g}–{single['high_ms']:.3g}"]
        best = [f"{row['images/s']:.0f}", row["best batch"]]
        name = row["name"] + (f", {row['device']}" if len(used) > 1 else "")
        cells.append([name, f"{row['bytes'] / 1e6:.2f}", *scores, *times, *best, f"{row['cold start s']:.2f}"])
    lines.append(table(header, cells))
    unlike = [f"  {row['name']}: {row['arithmetic']}" for row in rows if row["arithmetic"] != "computes in fp32"]
    lines += ["arithmetic:", *unlike] if unlike else []
    return "\n".join([*lines, *(f"not in the table: {name}: {why}" for name, why in result["missing"].items())])


def main():
    args = parser().parse()
    keep_memory()
    choose_device(args.device, args.cuda)
    classes = read_classes(args.classes) if args.classes else None
    loading = {"model": args.model, "classes": classes, "image_size": args.image_size}
    network, card = load_model(args.weights, **loading)
    if card.scheme:
        raise UserError(
            f"--weights {args.weights} is quantized ({card.scheme}); give the fp32 checkpoint that it was made from"
        )
    dataset, why = find_dataset(card, args.dataset, args.data_dir)
    if why:
        progress(f"accuracy is not measured: {why}")
    split = dataset.held_out if dataset else None
    usable, missing = take_stock(variants(args.weights, network, card, dataset), args.weights, args.all)
    samples = spread(split, 32) if split else example_images(card, 32)[0]
    analysis = analyse(network, card.image_size)
    rows = measure(usable, split, samples, loading, args)
    result = {
        "model": card.architecture,
        "weights": str(args.weights),
        "image_size": card.image_size,
        "parameters": analysis.parameters["all"],
        "MACs": analysis.macs,
        "dataset": dataset.name if dataset else None,
        "measured on": f"{dataset.name} {split.name}" if split else None,
        "images": len(split) if split else 0,
        "files": rows,
        "missing": missing,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    path = RESULTS / "benchmarks" / f"{dataset.name if dataset else 'no_dataset'}_{card.architecture}.json"
    write_json(path, result)
    plots.benchmark(rows, path.with_suffix(".png"), f"{card.architecture}, {card.image_size} px")
    print(describe(result))
    print(f"written: {path} and {path.stem}.png beside it")


if __name__ == "__main__":
    run(main)
