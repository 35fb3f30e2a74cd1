"""Evaluate a trained model on labelled images, and write every figure as JSON with two plots beside it.

python3 eval.py -w weights/FashionMNIST/custom/best_model.pth        # the data set and split that training reported
python3 eval.py -w weights/photos/resnet18/best_model.pth --split val
python3 eval.py -w converted_models/resnet18_onnx.onnx -d photos/    # an exported or quantized file, the same way
python3 eval.py -w old.pth -m resnet18 -d FashionMNIST               # a checkpoint without a model card
"""

import os
import pathlib
import sys

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.card import read_classes
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, check_places, place_name, protect, result_name, write_json, write_text
from utils.core.inputs import no_place
from utils.core.machine import keep_memory
from utils.core.text import csv_text, plural, printable, shortened
from utils.data.flags import add_reading, no_data, reading_of

DEFAULT = "FashionMNIST"  # what a checkpoint without a model card is evaluated on


def parser():
    p = cli.Parser(__doc__)
    files = "a checkpoint (.pth), or a file made from one"
    model = cli.add_model(p, list_models(), unknown_model, required_weights=True, files=files)
    cli.add_card_facts(model)
    model.add_argument("-q", "--quantized", action="store_true", help="refuse weights that are not quantized (quantize.py)")
    cli.add_tta(model)
    data = cli.add_data(p, no_data, default=None)
    add_reading(data)
    data.add_argument("--split", choices=("train", "val", "test"),
                      help="default: test where there is one, else val; of another folder without them, all")  # fmt: skip
    data.add_argument("--val_fraction", type=float, check=cli.between(0, 1, closed=False), help="as it was in training")
    cli.add_device(p)
    p.add_argument(
        "--csv", check=no_place, metavar="FILE", help="every image: its class, the answer, the probability of both, the loss"
    )
    p.add_argument("--output", check=no_place, metavar="FILE", help="the JSON; default: results/accuracy/<dataset>/<name>.json")
    return p


def kind_of(file, weights):
    """What tells the results on a file from those on its checkpoint: the end of its name, or its kind."""
    stem, card = pathlib.Path(weights).stem, file.card
    said = stem.removeprefix(f"{card.file_name}_")
    if said not in (stem, "quantized"):
        return said
    return card.scheme or (None if file.engine == "checkpoint" else file.engine)


def main():
    args = parser().parse(lambda args: cli.same_file(args, "output", "csv"))

    from utils.data.samples import open_split  # not above, as what follows: the flags are answered without torch
    from utils.evaluation.evaluate import IMAGES, mistakes, of_each_image
    from utils.evaluation.metrics import summarise
    from utils.export.measure import answers_of
    from utils.export.quantize import hold_quantized
    from utils.inference.mirrored import AUGMENTED
    from utils.inference.predictors import open_predictor
    from utils.runtime.device import choose_device, origin

    keep_memory()
    choose_device(args.device, args.cuda)
    protect(*filter(None, (args.weights, args.classes)))
    classes = read_classes(args.classes) if args.classes else None
    given = {"classes": classes, "image_size": args.image_size, "model": args.model}
    file = open_predictor(args.weights, device=args.device, otherwise="checkpoint", **given)
    file.card = hold_quantized(args.weights, file.card) if args.quantized else file.card
    file = AUGMENTED[args.tta](file)
    if not (args.dataset or file.card.training):
        args.dataset = DEFAULT
        print(f"the file does not say what it was trained on: evaluating it on {DEFAULT}", file=sys.stderr)
    if file.warning():
        print(file.warning(), file=sys.stderr)
    card = file.card
    kind = kind_of(file, args.weights)
    split, dataset = open_split(card, args.dataset, args.data_dir, args.split, changes_of(args))
    other_split = split.name if split is not dataset.reported else None
    size, tta = args.image_size and f"{args.image_size}px", args.tta if args.tta != "none" else None
    title = result_name(card, args.weights, kind, size, tta)
    name = result_name(card, args.weights, kind, size, tta, other_split, other_part(args, card))
    source = args.dataset or card.training["dataset"]
    path = pathlib.Path(args.output or RESULTS / "accuracy" / place_name(source, dataset.name) / f"{name}.json")
    check_outputs(path, args.csv)
    batch = 1 if card.with_preprocessing else args.batch_size  # as it is asked: images of any size are no batch
    for notice in dataset.notices:
        print(notice, file=sys.stderr)
    count = plural(len(split), "image")
    print(f"{title} on {printable(dataset.name)} {split.name}: {count} at {card.image_size} px, batches of {batch}")
    evaluation = answers_of(file, split, args.batch_size, args.num_workers)
    here = origin()
    result = summarise(evaluation.logits, evaluation.labels, card.classes) | {
        "split": split.name,
        "dataset": dataset.name,
        "measured": f"{'the whole' if split.name == 'all' else split.name} of {source}: {count}",
        "image_size": card.image_size,
        "weights": str(args.weights),
        "images/s": round(len(split) / evaluation.seconds, 1),
        "date": here["date"],
        "device": here["machine"] | {"used": file.device},
        "precision": file.arithmetic,
        "batch_size": batch,
        "tta": args.tta,
    }
    wrong = mistakes(evaluation, split, card.classes)
    result["mistakes"] = [dict(zip(("class", "answer", "probability", "image"), item[1:], strict=True)) for item in wrong]
    print(describe(result))  # first: it is not lost where the files cannot be written
    write_json(path, result)
    drawn = draw(path, result["confusion matrix"], wrong, card.classes, f"{title}, {split.name}")
    if args.csv:
        write_text(args.csv, csv_text(IMAGES, of_each_image(evaluation, split, card.classes)))
    written = [str(path), f"{' and '.join(file.name for file in drawn)} beside it", args.csv]
    print("\n  ".join(["written:", *filter(None, written)]))


def other_part(args, card):
    """What tells the results on another part of a data set, by --val_fraction, from those on the usual one."""
    from utils.data.datasets import is_own

    own = not args.dataset or is_own(card, args.dataset)
    usual = (None, card.training.get("val_fraction")) if own else (None,)
    return None if args.val_fraction in usual else f"val_fraction_{args.val_fraction:g}"


def beside(path):
    """The files that may be written beside the JSON at `path`, by what they show."""
    ends = {"confusion": "confusion.png", "mistakes": "mistakes.png", "table": "confusions.csv"}
    return {name: path.with_name(f"{path.stem}_{end}") for name, end in ends.items()}


def check_outputs(path, csv):
    """Raise UserError where the JSON or the CSV cannot be written, or the CSV would replace what is written beside the JSON."""
    check_places(path, csv)
    if csv and os.path.realpath(csv) in map(os.path.realpath, beside(path).values()):
        raise UserError(f"{csv} is written beside {path}, with other contents; name another file", option="csv")


def draw(path, matrix, wrong, classes, title):
    """Write the confusion matrix, the mistakes and, of many classes, every confusion beside `path`; return these files."""
    from utils.evaluation import plots
    from utils.evaluation.metrics import CONFUSION, confusions

    matrix_file, mistakes_file, table = beside(path).values()
    plots.confusion_matrix(matrix, classes, matrix_file, title)
    plots.mistakes(wrong, mistakes_file, "Most confident mistakes")
    if len(classes) <= plots.MOST_CLASSES:
        return [matrix_file, mistakes_file]
    write_text(table, csv_text(CONFUSION, confusions(matrix, classes)))
    return [matrix_file, mistakes_file, table]


def changes_of(args):
    """What the flags say otherwise than the facts in the card."""
    reading = reading_of(args).given
    changes = {"val_fraction": args.val_fraction, "reading": reading or None, "dataset": args.dataset if reading else None}
    return {name: value for name, value in changes.items() if value is not None}


def describe(result):
    """Every metric that is shown, the speed, and the three classes with the lowest F1."""
    occurring = [(name, values) for name, values in result["per class"].items() if values["support"]]
    weakest = sorted(occurring, key=lambda item: item[1]["F1"])[:3]
    names = ", ".join(f"{printable(shortened(name, 40))} (F1 {values['F1']:.3f})" for name, values in weakest)
    from utils.evaluation.metrics import lines

    return "\n".join([*lines(result), f"{result['images/s']:.0f} images/s", f"weakest classes: {names}"])


if __name__ == "__main__":
    run(main)
