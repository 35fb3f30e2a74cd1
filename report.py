"""Write one HTML page on a trained model, or on two side by side, that opens without a network.

python report.py -w weights/FashionMNIST/resnet18                      # the folder of a run, or a model file
python report.py -w weights/photos/custom -w weights/photos/resnet18   # two, compared by McNemar's test
python report.py -w weights/photos/custom --card                       # writes MODEL_CARD.md beside the model too

The page holds a summary in words, the curves, the confusion matrix with its images, figures of each class, the reliability of
the probabilities, the most confident mistakes, augmented samples, what is wrong with the data set's files, the exported files
beside the checkpoint, and what the network costs and sees.
"""

import collections
import dataclasses
import os
import sys

from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import check_places, protect, write_text
from utils.core.inputs import no_place, nothing_there
from utils.core.machine import keep_memory
from utils.data.flags import no_data
from utils.inference.formats import FORMATS

MOST_FILES = 20_000  # of a data set that are looked through; check_dataset.py takes any number


def parser():
    p = cli.Parser(__doc__)
    model = p.add_argument_group("model")
    about = "the folder of a run, weights/<dataset>/<model>, or a model file; give it twice to compare two"
    model.add_argument(
        "-w", "--weights", required=True, action="append", check=nothing_there, metavar="FOLDER|FILE", help=about
    )
    data = cli.add_data(p, no_data, default=None)
    data.add_argument("--split", choices=("train", "val", "test"), help="default: test where there is one, else val")
    data.add_argument("--val_fraction", type=float, check=cli.between(0, 1, closed=False), help="as it was in training")
    cli.add_device(p)
    out = p.add_argument_group("output")
    out.add_argument(
        "--output", check=no_place, metavar="FILE", help="the page; default: results/reports/<dataset>_<name>.html"
    )
    out.add_argument("--card", action="store_true", help="also write MODEL_CARD.md beside each model")
    return p


def contradictions(args):
    count = len(args.weights)
    if count > 2:
        return [f"--weights was given {count} times; a page shows one model or two"]
    same = count == 2 and os.path.realpath(args.weights[0]) == os.path.realpath(args.weights[1])
    return ["--weights names one model twice; a comparison needs two"] if same else []


def look(path, name, args):
    """A Run: everything that the page shows of one model."""
    from utils.data.samples import open_split
    from utils.evaluation.metrics import summarise
    from utils.export.measure import answers_of
    from utils.inference.formats import converted_folder
    from utils.inference.predictors import open_predictor
    from utils.report.files import exported_files
    from utils.report.run import Run
    from utils.runtime.device import describe_machine

    file = open_predictor(path, device=args.device, otherwise="checkpoint")
    changes = {} if args.val_fraction is None else {"val_fraction": args.val_fraction}
    split, dataset = open_split(file.card, args.dataset, args.data_dir, args.split, changes)
    protect(path.with_name("history.json"), *(converted_folder(path).glob("*")))
    print(f"{name}: asking about {len(split):,} images of {dataset.name} ({split.name})", flush=True)

    def ask(file, split):
        return answers_of(file, split, args.batch_size, args.num_workers)

    evaluation = ask(file, split)
    result = summarise(evaluation.logits, evaluation.labels, file.card.classes)
    data = args.dataset or file.card.training.get("dataset")
    facts = (str(path), file.card, split, dataset, data, evaluation, result, file.arithmetic, file.device, describe_machine())
    found = Run(name, *facts)
    found.files = exported_files(found, ask)
    for section, add in {"curves": add_training, "network": add_network, "data": add_findings}.items():
        try:
            add(found, path, file)
        except UserError as error:
            found.notes[section] = str(error)
    if not found.files:
        found.notes["files"] = "There are none in converted_models/ beside the model; export.py and quantize.py write them."
    return found


def add_training(found, path, file):
    """The curves and the augmented samples, from history.json beside the model."""
    from utils.report.curves import curves_of, read_history
    from utils.report.samples import samples_of
    from utils.training.options import TrainOptions

    history = read_history(path.with_name("history.json"))
    if history is None:
        found.notes["samples"] = "Without the history it is not known how they were augmented."
        raise UserError("There is no history.json beside the model.")
    flags, names = history["flags"], {field.name for field in dataclasses.fields(TrainOptions)}
    seen = found.dataset.train if found.has_own_data else None
    try:
        options = TrainOptions(**{name: value for name, value in flags.items() if name in names})
        found.curves = curves_of(history, options.plain_from if options.augments else None, file.card.training.get("epoch"))
        found.samples = samples_of(seen, found.card, flags) if seen else None
    except (TypeError, ValueError, LookupError):
        raise UserError(f"{path.with_name('history.json')} does not hold the flags of a run.") from None
    if not found.samples:
        found.notes["samples"] = "They were not augmented." if seen else "The images that it was trained on are not here."


def add_network(found, path, file):
    """What the network costs and sees; exported files hold a graph, which is not analysed."""
    from models.checkpoint import load_model
    from utils.export.verify import widened
    from utils.report.network import network_of

    if not FORMATS[file.engine].weights:
        raise UserError("Only a checkpoint is analysed.")
    network, card = load_model(path)
    found.network = network_of(widened(network, card), card)


def add_findings(found, path, file):
    """What check_dataset.py finds in the files of the data set."""
    from utils.doctor.facts import read_all
    from utils.doctor.findings import find

    dataset = found.dataset
    splits = [part for part in (dataset.train, dataset.val, dataset.test) if part]
    if not all(isinstance(place, os.PathLike) for part in splits for place in part.paths or [None]):
        raise UserError("Its images are no files of their own, so there are none to look through.")
    if sum(map(len, splits)) > MOST_FILES:
        raise UserError(f"It has more than {MOST_FILES:,} files: check_dataset.py looks through them.")
    found.findings = collections.defaultdict(list)
    for finding in find(read_all(splits), found.classes):
        found.findings[finding.kind].append(finding)


def main():
    args = parser().parse(contradictions)
    from utils.report.comparison import compare  # not above, as what follows: the flags are answered without torch
    from utils.report.model_card import check_card_place, model_card
    from utils.report.page import View, render
    from utils.report.places import default_output, model_file, names_of
    from utils.runtime.device import choose_device

    keep_memory()
    choose_device(args.device, args.cuda)
    paths = [model_file(place) for place in args.weights]
    cards = [path.with_name("MODEL_CARD.md") for path in paths] if args.card else []
    protect(*(file for path in paths for file in path.parent.iterdir() if file not in cards and file.suffix != ".html"))
    check_places(args.output)
    if args.output and os.path.realpath(args.output) in map(os.path.realpath, cards):
        raise UserError("--output and --card name one file; name another page", option="output")
    if len({*cards}) < len(cards):
        raise UserError("both models lie in one folder, which holds one MODEL_CARD.md: give it with one of them", option="card")
    for place in cards:
        check_card_place(place)
    runs = [look(path, name, args) for path, name in zip(paths, names_of(paths), strict=True)]
    comparison = note = None
    if len(runs) == 2:
        try:
            comparison = compare(*runs)
        except UserError as error:
            note = str(error)
            print(note, file=sys.stderr)
    views = [View(found, number) for number, found in enumerate(runs)]
    print("\n".join([*views[0].summary, *([comparison.words] if comparison else [])]))  # not lost where nothing can be written
    written = [write_text(args.output or default_output(runs), render(views, comparison, note))]
    written += [write_text(place, model_card(view)) for place, view in zip(cards, views, strict=False)]
    print("\n".join(["written:", *(f"  {path}" for path in written)]))


if __name__ == "__main__":
    run(main)
