"""Compare everything that is made from one checkpoint: size, accuracy, latency, throughput, cold start, in one table.

    python benchmark.py --weights weights/FashionMNIST/custom/best_model.pth        # the files that are there
    python benchmark.py --weights weights/FashionMNIST/custom/best_model.pth --all  # makes those that are not, first

Latency and throughput are those of the network alone; the cold start is that of a whole predict.py (predict_ckpoint.py for
a checkpoint) with one image, from the start of the process to its end. A checkpoint must be fp32; it is the first row.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from models.registry import list_models, unknown_model
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_data, add_device, add_model
from utils.core.errors import UserError, run
from utils.core.files import benchmark_file, protect, replacing, write_json
from utils.core.images import preprocess
from utils.core.machine import keep_memory
from utils.core.text import plural, si, table
from utils.data.flags import no_data
from utils.inference.formats import FORMATS

BATCHES = (1, 8, 32, 128)
COLD_STARTS = 3


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), unknown_model, required_weights=True)
    add_card_facts(model)
    parser.add_argument("--all", action="store_true", help="make what is missing, or older than the checkpoint, first")
    add_data(parser, no_data, default=None)
    add_device(parser)
    return parser


def progress(text):
    print(text, file=sys.stderr, flush=True)


def cold_start(variant, image, args):
    """Median seconds of a whole process that answers one image with the file. Raises UserError where it fails."""
    checkpoint = FORMATS[variant.format].weights
    script = pathlib.Path(__file__).with_name("predict_ckpoint.py" if checkpoint else "predict.py")
    command = [sys.executable, str(script), "-i", str(image), "-w" if checkpoint else "-m", str(variant.path)]
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
    """A list of dicts, one a file, in the order of `usable`, and {name: why} of those that cannot be opened or answered.

    `samples` are Pillow images. Raises UserError where no file is left.
    """
    from utils.export.measure import answers_of, as_json, scores_of, speeds_of

    files, failed = {}, {}
    for variant in usable:
        try:
            files[variant.name] = open_file(variant, loading, args)
        except UserError as error:
            failed[variant.name] = str(error)
    if not files:
        raise UserError(failed[usable[0].name])
    card = next(iter(files.values())).card
    progress(f"timing batches of {', '.join(map(str, BATCHES))}")
    images = np.concatenate([preprocess(image, card) for image in samples])
    times, rows = speeds_of(files, images, BATCHES, most=60, seconds=2.0), []
    with tempfile.TemporaryDirectory() as folder:
        image = pathlib.Path(folder, "image.png")
        with replacing(image) as temporary:
            samples[0].save(temporary)
        for variant in (variant for variant in usable if variant.name in files):
            progress(f"measuring {variant.name}")
            file, fastest = files[variant.name], max(times[variant.name], key=lambda latency: latency.images_per_second)
            row = {"name": variant.name, "file": str(variant.path), "arithmetic": file.arithmetic, "device": file.device}
            row |= {"bytes": file.bytes}
            row |= {"latency": as_json(times[variant.name])}
            row |= {"best batch": fastest.batch, "images/s": fastest.images_per_second}
            try:
                row |= scores_of(answers_of(file, split, args.batch_size, args.num_workers)) if split else {}
                rows.append(row | {"cold start s": cold_start(variant, image, args)})
            except UserError as error:
                failed[variant.name] = str(error)
    if not rows:
        raise UserError(failed[usable[0].name])
    return rows, failed


def open_file(variant, loading, args):
    """The opened file, for as many threads as torch has: one a core, unless OMP_NUM_THREADS says otherwise."""
    import torch

    from utils.inference.predictors import open_predictor

    given = loading if variant.make is None else {}
    threads, device = torch.get_num_threads(), variant.device(args.device)
    file = open_predictor(variant.path, variant.format, device=device, threads=threads, **given)
    if file.warning():
        progress(file.warning())
    return file


def describe(result):
    """The figures of the network in one line, the table, and what is not in it."""
    machine, rows = result["machine"], result["files"]
    count = plural(result["images"], "image")
    where = f"Acc@1 and Acc@5 on {result['measured on']}: {count}" if result["images"] else "no accuracy"
    used = sorted({row["device"].partition(":")[0] for row in rows})
    places = " and ".join(machine["gpu" if device == "cuda" else "cpu"] for device in used)
    lines = [
        f"{result['model']} at {result['image_size']} px, {si(result['parameters'])} parameters, {si(result['MACs'], 'MAC')}",
        f"{where}; latency on {places}, {plural(result['threads'], 'thread')}",
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

    import torch  # not above, as what follows: the flags are answered without it

    from models.checkpoint import load_model
    from utils.complexity.exact import analyse
    from utils.data.samples import example_images, find_dataset, spread
    from utils.evaluation import plots
    from utils.export.variants import take_stock, variants
    from utils.runtime.device import choose_device, origin

    keep_memory()
    choose_device(args.device, args.cuda)
    protect(*filter(None, (args.weights, args.classes)))
    classes = read_classes(args.classes) if args.classes else None
    loading = {"model": args.model, "classes": classes, "image_size": args.image_size}
    network, card = load_model(args.weights, **loading)
    if card.scheme:
        raise UserError(f"--weights {args.weights} is quantized ({card.scheme}); give the fp32 checkpoint that it was made of")
    dataset, why = find_dataset(card, args.dataset, args.data_dir)
    if why:
        progress(f"accuracy is not measured: {why}")
    split = dataset.held_out if dataset else None
    usable, missing = take_stock(variants(args.weights, network, card, dataset), args.weights, args.all, progress)
    if not args.all:
        missing = {name: f"{why}; --all makes it" for name, why in missing.items()}
    samples = spread(split, 32) if split else example_images(card, 32)[0]
    analysis = analyse(network, card.image_size)
    rows, failed = measure(usable, split, samples, loading, args)
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
        "missing": missing | failed,
        "threads": torch.get_num_threads(),
    } | origin()
    data = (args.dataset or card.training["dataset"], dataset.name) if dataset else (None, None)
    path = benchmark_file(card, args.weights, *data, args.image_size and f"{args.image_size}px")
    print(describe(result))  # first: it is not lost where the files cannot be written
    write_json(path, result)
    plots.benchmark(rows, path.with_suffix(".png"), f"{card.architecture}, {card.image_size} px")
    print(f"written: {path} and {path.stem}.png beside it")


if __name__ == "__main__":
    run(main)
