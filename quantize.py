"""Make a smaller file of a trained network, and measure what it costs and gains: size, accuracy, agreement, latency.

    python quantize.py -w weights/FashionMNIST/resnet18/best_model.pth                        fp16: half the bytes
    python quantize.py -w weights/FashionMNIST/resnet18/best_model.pth --scheme int8          a quarter, for ONNX Runtime
    python quantize.py -w weights/FashionMNIST/custom/best_model.pth --scheme int8-dynamic    needs no calibration
    python quantize.py -m resnet18 -w plain_state_dict.pth -c classes.txt                     a file without a model card

Everything is measured on the reloaded file, in the arithmetic that it ships in, beside the fp32 file for the same engine.
Exit status 4: the file is written, but its accuracy is lower by more than --max_drop.
"""

import dataclasses
import pathlib
import sys
import tempfile
from functools import partial

import numpy as np
import torch

from models.checkpoint import load_model, save_checkpoint
from models.registry import list_models
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_data, add_device, add_model, at_least, between
from utils.core.errors import ACCURACY_LOST, UserError, run
from utils.core.files import RESULTS, write_json
from utils.core.images import preprocess
from utils.core.machine import keep_memory
from utils.core.text import table
from utils.data.loader import eval_batches
from utils.data.samples import calibration_images, example_images, find_dataset, spread
from utils.evaluation.evaluate import evaluate
from utils.evaluation.latency import race
from utils.evaluation.metrics import topk_correct, wilson_interval
from utils.export.quantize import QUANTIZERS
from utils.export.verify import export_model
from utils.inference.formats import converted_folder
from utils.inference.predictors import open_predictor
from utils.runtime.device import choose_device, describe_machine, share_cores

BATCHES = (1, 32)
SLOWER = 1.05  # times the latency of fp32 before it is called slower: less is within the spread of a quiet machine


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), required_weights=True)
    add_card_facts(model)
    scheme = parser.add_argument_group("quantization")
    scheme.add_argument("--scheme", default="fp16", choices=list(QUANTIZERS), help="what becomes of the weights")
    scheme.add_argument("--calibration", type=int, default=256, check=at_least(1), metavar="N", help="int8: training images")
    scheme.add_argument("--seed", type=int, default=0, check=at_least(0), help="int8: which training images")
    scheme.add_argument("--equalize", action="store_true", help="int8: even out the channels first, where they differ much")
    scheme.add_argument("--max_drop", type=float, default=1.0, check=between(0, 100), help="points of Acc@1 for status 4")
    scheme.add_argument("--output", metavar="FILE", help="default: converted_models/<model>_<scheme> beside the weights")
    add_data(parser, default=None)
    add_device(parser)
    return parser


def flags_agree(args):
    """Faults of flags that do not go together."""
    scheme = QUANTIZERS[args.scheme]
    for flag in {"calibration", "seed"} & args.given:
        if not scheme.calibrated:
            yield f"--{flag} is for schemes that are calibrated: leave it out, or take --scheme int8"
    if args.device not in ("auto", *scheme.devices):
        yield f"--scheme {args.scheme} makes a file for {scheme.shown} on the CPU: leave --device {args.device} out"
    if args.output and pathlib.Path(args.output).suffix != scheme.suffix:
        yield f"--output {args.output} must end in {scheme.suffix}, as a file of --scheme {args.scheme} does"


def write_fp32(scheme, network, card, folder):
    """The same network in fp32 for the same engine: what the quantized file is held against."""
    path = pathlib.Path(folder, f"fp32{scheme.suffix}")
    if scheme.format == "checkpoint":
        save_checkpoint(path, {"model": network.state_dict(), "card": card.to_dict()})
    else:
        images, source = example_images(card, 8)
        export_model(network, card, scheme.format, path, images=images, source=source)
    return path


def measure(before, after, split, samples, args):
    """Facts of both files: a dict with `before`, `after`, `agreement` and how many images that is of.

    `split` is what Acc@1 is measured on, or None; `samples` are Pillow images for the latency, and without a split for the
    agreement too.
    """
    batch = np.concatenate([preprocess(image, before.card) for image in samples])
    logits, facts, threads = [], [], torch.get_num_threads()
    for file in (before, after):
        device = torch.device(file.device)
        fact = {"file": file.path.name, "engine": file.shown, "arithmetic": file.arithmetic, "bytes": file.bytes}
        if split is None:
            logits.append(file(batch))
        else:
            workers = share_cores(args.num_workers if split.paths else 0, device)[1]
            answers = evaluate(file.predict, eval_batches(split, before.card, args.batch_size, device, workers=workers))
            logits.append(answers.logits.numpy())
            correct = topk_correct(answers.logits, answers.labels, 1).item()
            fact |= {"Acc@1": correct / len(split), "Acc@1 95 % interval": list(wilson_interval(correct, len(split)))}
        facts.append(fact | {"latency": []})
    torch.set_num_threads(threads)
    for size in BATCHES:
        images = np.resize(batch, (size, *batch.shape[1:]))
        times = race({"before": partial(before, images), "after": partial(after, images)}, size)
        for fact, name in zip(facts, ("before", "after"), strict=True):
            fact["latency"].append(dataclasses.asdict(times[name]))
    agreement = float(np.mean(logits[0].argmax(1) == logits[1].argmax(1)))
    return {"before": facts[0], "after": facts[1], "agreement": agreement, "images": len(logits[0])}


def judge(result, max_drop):
    """`(verdict in words, exit status)` on what `measure` found; `max_drop` in points of Acc@1."""
    before, after = result["before"], result["after"]
    smaller = before["bytes"] / after["bytes"]
    pairs = list(zip(before["latency"], after["latency"], strict=True))
    speeds = ", ".join(f"{b['median_ms'] / a['median_ms']:.2f} × the speed at batch {b['batch']}" for b, a in pairs)
    facts = f"{smaller:.2f} × smaller, {speeds}"
    if "Acc@1" in before:
        drop = 100 * (before["Acc@1"] - after["Acc@1"])
        beyond = after["Acc@1"] < before["Acc@1 95 % interval"][0]
        if beyond or drop > max_drop:
            where = "beyond the interval" if beyond else f"within the interval of {result['images']:,} images"
            limit = f" (--max_drop {max_drop:g})" if drop > max_drop else ""
            return f"accuracy lost: {drop:.2f} points, {where}{limit}; {facts}", ACCURACY_LOST if drop > max_drop else 0
        facts += f", Acc@1 {-round(drop, 2) + 0.0:+.2f} points"
    slower = [str(b["batch"]) for b, a in pairs if a["median_ms"] > SLOWER * b["median_ms"]]
    if smaller < 1.05:
        return f"hardly smaller: keep fp32; {facts}", 0
    if slower:
        where = "" if len(slower) == len(pairs) else f" at batch {' and '.join(slower)}"
        return f"smaller but slower here{where}: keep fp32 for speed{where and ' there'}; {facts}", 0
    return f"use it: {facts}" + ("" if "Acc@1" in before else "; its accuracy is not measured"), 0


def describe(result, card, why):
    """What was measured on, a table of before and after with a row a quantity, what computed where, and the verdict."""
    before, after, machine = result["before"], result["after"], result["machine"]
    rows = [["size", *(f"{fact['bytes'] / 1e6:.2f} MB" for fact in (before, after))]]
    if "Acc@1" in before:
        rows.append(["Acc@1", *(f"{100 * fact['Acc@1']:.2f} %" for fact in (before, after))])
        ends = ([100 * end for end in fact["Acc@1 95 % interval"]] for fact in (before, after))
        rows.append(["  95 % interval", *(f"{low:.2f}–{high:.2f} %" for low, high in ends)])
    rows.append(["argmax agreement", "", f"{100 * result['agreement']:.2f} %"])
    for pair in zip(before["latency"], after["latency"], strict=True):
        rows.append([f"latency, batch {pair[0]['batch']}", *(f"{time['median_ms']:.3g} ms" for time in pair)])
        rows.append(["  10th–90th percentile", *(f"{time['low_ms']:.3g}–{time['high_ms']:.3g} ms" for time in pair)])
    computer = machine["gpu"] if result["device"].startswith("cuda") else machine["cpu"]
    lines = [
        f"{card.architecture} at {card.image_size} px on {result['measured on']}: {result['images']:,} images",
        *([f"accuracy is not measured: {why}"] if why else []),
        table(["", "fp32", result["scheme"]], rows),
        f"{after['engine']}: {after['arithmetic']}",
        f"latency is that of the network alone, on {computer}, {result['threads']} thread{'s' * (result['threads'] != 1)}",
        f"verdict: {result['verdict']}",
    ]
    return "\n".join(lines)


def main():
    args = parser().parse(lambda args: list(flags_agree(args)))
    keep_memory()
    scheme = QUANTIZERS[args.scheme]
    device = args.device if "cuda" in scheme.devices else "cpu"
    choose_device(device, args.cuda)
    threads = torch.get_num_threads()  # one a core, unless OMP_NUM_THREADS says otherwise; the same for every engine
    classes = read_classes(args.classes) if args.classes else None
    network, card = load_model(args.weights, args.model, classes, args.image_size)
    if card.scheme:
        raise UserError(f"--weights {args.weights} is quantized already ({card.scheme}); give the fp32 checkpoint")
    path = pathlib.Path(args.output or converted_folder(args.weights) / scheme.file_name(card.architecture))
    dataset, why = find_dataset(card, args.dataset, args.data_dir, required=scheme.calibrated)
    split = dataset.held_out if dataset else None
    if dataset and split is None:
        why = f"{dataset.name} has no images apart from those of training"
    samples, source = (spread(split, max(BATCHES)), None) if split else example_images(card, max(BATCHES))
    calibration = calibration_images(dataset.train, args.calibration, args.seed) if scheme.calibrated else []
    with tempfile.TemporaryDirectory() as folder:
        fp32 = write_fp32(scheme, network, card, folder)
        scheme.apply(network, card, path, calibration, args.equalize)
        before, after = (open_predictor(file, device=device, threads=threads) for file in (fp32, path))
        if after.warning():
            print(after.warning(), file=sys.stderr)
        measured = measure(before, after, split, samples, args)
    verdict, status = judge(measured, args.max_drop)
    facts = {
        "model": card.architecture,
        "scheme": args.scheme,
        "weights": str(args.weights),
        "dataset": dataset.name if dataset else None,
        "measured on": f"{dataset.name} {split.name}" if split else source,
        "calibration": f"{len(calibration)} images of {dataset.name} train, seed {args.seed}" if calibration else None,
        "equalized": args.equalize,
        "quantization": after.card.quantization,
    }
    closing = {"verdict": verdict, "status": status, "max_drop": args.max_drop, "threads": threads}
    result = facts | measured | closing | {"device": str(device), "machine": describe_machine()}
    folder = RESULTS / "quantization" / (dataset.name if dataset else "no_dataset")
    target = write_json(folder / f"{card.architecture}_{args.scheme}.json", result)
    print(describe(result, card, why))
    print(f"written: {path} and {target}")
    return status


if __name__ == "__main__":
    run(main)
