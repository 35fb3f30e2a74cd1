"""What starting from one's own weights gains on Fashion-MNIST with few images, and at which learning rate.

    python benchmarks/fine_tuning.py --data_dir data/

Two cases, five seeds each, by the real training code with FashionCNN at 32 px:
- 8 classes -> 10: trained on 8 of the classes, then 20 images of each of all 10;
- 10 classes -> 11: trained on all 10, then 20 images of each of 8 of them and of three new ones, shown upside down.

Accuracy on 1,000 test images after the first and the last of six epochs, from random weights, from the trunk alone (a fresh
head), with the rows of the known classes kept, and with learning rates that decay by depth too; at two learning rates.
Writes results/benchmarks/fine_tuning.json.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np
import torch

from models.checkpoint import read_checkpoint
from utils.core.files import RESULTS, write_json
from utils.core.text import table
from utils.data.datasets import DATASETS
from utils.data.splits import Dataset, Split
from utils.runtime.device import origin
from utils.training.build import build_trainer
from utils.training.options import TrainOptions
from utils.training.schedule import OF_TRAINED

SEEDS, FEW, TESTED, EPOCHS, BATCH = 5, 20, 1000, 6, 32
RATES, DECAY = (4e-3, 1e-3), 0.75
COMMON = {"model": "custom", "image_size": 32, "val_fraction": 0, "precision": "fp32", "augment": "flip_shift"}


def part_of(split, classes, count, seed=0):
    """`count` images of each of `classes`, (label, upside down or not), in their order."""
    random, images, labels = np.random.default_rng(seed), [], []
    for place, (label, turned) in enumerate(classes):
        indices = random.permutation(np.flatnonzero(split.labels == label))[:count]
        images.append(split.arrays[indices, ::-1] if turned else split.arrays[indices])
        labels.append(np.full(len(indices), place))
    return Split(split.name, np.concatenate(labels), np.concatenate(images))


def register(name, classes, count, seed, fashion):
    """Make a data set of some classes of Fashion-MNIST known to the training code."""
    names = [fashion.classes[label] + " upside down" * turned for label, turned in classes]
    train, test = part_of(fashion.train, classes, count, seed), part_of(fashion.test, classes, TESTED // len(classes))

    class Part:
        @staticmethod
        def load(folder):
            return Dataset(name, names, train, val=test)  # evaluated after every epoch

    DATASETS.pop(name, None)
    DATASETS.register(name)(Part)


def train(folder, dataset, epochs, **options):
    """`(path of the best model, [test accuracy after each epoch])` of one run."""
    options = COMMON | {"dataset": dataset, "max_epoch": epochs, "path_to_save": str(folder), "batch_size": BATCH} | options
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(TrainOptions(**options), torch.device("cpu"))
        trainer.fit()
    return trainer.files.best, [round(record["val"]["Acc@1"], 4) for record in trainer.state.history]


def starts(best, folder):
    """{how a run starts: its options}"""
    bare = pathlib.Path(folder, "bare.pth")
    torch.save(read_checkpoint(best)["model"], bare)  # without the names of its classes
    found = {"random weights": {"base_lr": RATES[0]}}
    for rate in RATES:
        found[f"fresh head, {rate:g}"] = {"weights": str(bare), "base_lr": rate, "wp_epoch": OF_TRAINED}
        kept = {"weights": str(best), "base_lr": rate, "wp_epoch": OF_TRAINED}
        found[f"known rows kept, {rate:g}"] = kept
        found[f"known rows kept, {rate:g}, layer decay {DECAY:g}"] = kept | {"layer_decay": DECAY}
    return found


def measure(case, before, after, fashion, folder):
    """{start: {"first": [accuracy after the first epoch, by seed], "last": [at the end]}}"""
    register("before", before, 1500, 0, fashion)
    best, scores = train(folder / "before", "before", 3, batch_size=128)
    print(f"{case}: {scores[-1]:.4f} on the classes before", file=sys.stderr)
    found = {}
    for name, options in starts(best, folder).items():
        found[name] = {"first": [], "last": []}
        for seed in range(SEEDS):
            register("after", after, FEW, seed, fashion)
            scores = train(folder / "after", "after", EPOCHS, seed=seed, **options)[1]
            found[name]["first"].append(scores[0])
            found[name]["last"].append(scores[-1])
        print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def show(result):
    """A table a case."""
    for case, starts in result["cases"].items():
        rows = []
        for name, scores in starts.items():
            cells = [f"{100 * statistics.mean(s):.1f} ({100 * min(s):.1f}–{100 * max(s):.1f})" for s in scores.values()]
            rows.append([name, *cells])
        print(f"{case}\n{table(['start', 'after one epoch', f'after {EPOCHS}'], rows)}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/", help="where FashionMNIST lies")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fashion, cases = DATASETS["FashionMNIST"].load(pathlib.Path(args.data_dir)), {}
    plain = [(label, False) for label in range(10)]
    with tempfile.TemporaryDirectory() as folder:
        for before, after in ((plain[:8], plain), (plain, [*plain[:8], (5, True), (8, True), (9, True)])):
            case = f"{len(before)} classes, then {len(after)}"
            cases[case] = measure(case, before, after, fashion, pathlib.Path(folder, str(len(before))))
    result = {"cases": cases, "seeds": SEEDS, "images of a class": FEW, "epochs": EPOCHS} | origin()
    write_json(RESULTS / "benchmarks" / "fine_tuning.json", result)
    show(result)


if __name__ == "__main__":
    main()
