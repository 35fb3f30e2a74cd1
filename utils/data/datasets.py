"""The data sets by name or path, and the one that a model was trained on.

A new data set is one class under `@DATASETS.register(name)`: `load(folder)` returns a Dataset, `is_present(folder)` says
whether its files are in the folder already.
"""

import importlib.util
import os
import pathlib
import re

import numpy as np

from utils.core.errors import UserError
from utils.core.files import protect
from utils.core.inputs import nearest, perhaps
from utils.core.machine import network_timeout
from utils.core.registry import Registry, most_alike
from utils.core.text import plural
from utils.data.hugging_face import is_hugging_face
from utils.data.places import files_of
from utils.data.readers import HOW, read_dataset, reader_of
from utils.data.reading import Reading
from utils.data.splits import Dataset, Split, hold_out, stratified_split

DATASETS = Registry("data set")


def open_dataset(name, data_dir="data/", val_fraction=0.1, complete=True, reading=None):
    """A registered data set by name, or what a path names: see `utils.data.readers`, and Reading for `reading`.

    `val_fraction` of the training part is held out for selection, the same in every run; data with a validation split of
    their own keep that. For training (`complete`) there must be a training split, and all of its classes in
    every split. Raises UserError for an unknown name and for everything wrong with the files.
    """
    if name in DATASETS:
        for field in reading.given if reading else ():
            raise UserError(f"{name} has neither columns nor names of images; leave it out", option=field)
        dataset = DATASETS[name].load(pathlib.Path(data_dir))
        if os.path.isdir(name):
            dataset.notices.append(f"{name} is the data set that comes with the toolkit; the folder of that name is ./{name}")
    else:
        fault = no_data(name)
        if fault:
            raise UserError(f"{name} {fault}", option="dataset")
        dataset = read_dataset(name, reading, complete)
    if dataset.train and not dataset.val and val_fraction > 0:
        kept, held = hold_out(dataset.train, val_fraction)
        if not len(held):
            count = len(dataset.train)
            raise UserError(f"a share of {val_fraction} of {count} images holds out none; give more", option="val_fraction")
        dataset.train, dataset.val = dataset.train.subset(kept), dataset.train.subset(held, "val")
    return dataset


def no_data(name):
    """What is wrong with a name that is neither that of a data set nor of data that are there, in words that follow it.

    None for all others, and for what has to be asked for elsewhere: `hf:NAME`, `pipe:COMMAND`.
    """
    name = str(name)
    if name in DATASETS or is_hugging_face(name) or (reader_of(name) and reader_of(name).is_here(name)):
        return None
    how = f"give {', '.join(DATASETS)}, {HOW}"
    if os.path.exists(name):
        return f"is a file of no known kind; {how}"
    near = nearest(name) or next(iter(most_alike(name, list(DATASETS))), None)
    return f"does not exist{perhaps(near) or f'; {how}'}"


def is_present(name, data_dir="data/"):
    """Whether a data set can be opened without a download: a registered one in `data_dir`, others by their path."""
    if name in DATASETS:
        return DATASETS[name].is_present(pathlib.Path(data_dir))
    return bool(reader_of(name) and reader_of(name).is_here(name))


def dataset_of(card, dataset=None, data_dir=None, some=False):
    """The data set that a model was trained on, as its card says, unless told otherwise; with the labels of the card.

    For an evaluation `some` of its splits and classes will do. Raises UserError where neither says, where the folder has
    gone, and where the classes are not those of the card.
    """
    facts = card.training
    name = dataset or facts.get("dataset")
    if name is None:
        raise UserError("the model card names no data set; say which", option="dataset")
    if not dataset and is_hugging_face(name) and not is_present(name):
        raise UserError(f"the model card names {name}, which is not on this machine: name it to have it downloaded", "dataset")
    place = data_dir or facts.get("data_dir", "data/")
    if not data_dir and not is_present(name, place):
        place = "data/"  # nothing is downloaded to where a file says
    reading = Reading(**facts.get("reading", {})) if is_own(card, name) else None  # columns of other data
    opened = open_dataset(name, place, facts.get("val_fraction", 0.1), complete=not some, reading=reading)
    match_classes(opened, card, some)
    protect_images(opened)
    return opened


def protect_images(dataset):
    """Have no output of this process replace a file that holds images of a Dataset."""
    for split in dataset.splits:
        protect(*files_of(split.paths or ()))


def is_own(card, dataset):
    """Whether a data set is the one that the card names, however its path is spelled."""
    own = card.training.get("dataset")
    if own is None or dataset in DATASETS or own in DATASETS:
        return dataset == own or (own is None and dataset in DATASETS)
    return os.path.realpath(dataset) == os.path.realpath(own)


def match_classes(dataset, card, some=False):
    """Give the images of a Dataset the labels that their classes have in the card, by name; `some` of the classes will do.

    Where a file does not name its classes, its outputs are the classes of the data set in their order: the card takes the
    names over, and a notice says so. Raises UserError, naming the classes, where the names do not agree.
    """
    theirs, ours = dataset.classes, card.classes
    unknown, missing = [c for c in theirs if c not in ours], [c for c in ours if c not in theirs]
    numbers = all(name.isdecimal() for name in theirs) and theirs != sorted(theirs, key=int)
    twice = next((name for name in ours if ours.count(name) > 1), None) if len({*ours}) < len(ours) else None
    if card.invented_classes and len(theirs) == len(ours) and numbers:
        raise UserError(
            f"the file does not name its classes, and those of {dataset.name} are numbers, whose order as text is another: "
            "name them, one a line, in the order of its outputs",
            option="classes",
        )
    elif twice:
        raise UserError(f"two classes of the model are called {twice!r}, so labels do not say which", option="classes")
    elif card.invented_classes and len(theirs) == len(ours):
        card.classes, card.invented_classes = list(theirs), False
        order = ", ".join(theirs[:3]) + ", …" * (len(theirs) > 3)
        dataset.notices.append(f"the file does not name its classes: its outputs are taken for {order}, in that order")
    elif card.invented_classes or (len(theirs) != len(ours) and not (some and not unknown)):
        raise UserError(
            f"{dataset.name} has {plural(len(theirs), 'class', 'classes')}, the model was trained on {len(ours)}"
            + (" that its file does not name; name them, one a line" if card.invented_classes else _named(unknown, ours)),
            option="classes" if card.invented_classes else "dataset",
        )
    elif unknown or (missing and not some):
        raise UserError(f"{dataset.name} has other classes than the model was trained on{_named(unknown, ours)}", "dataset")
    elif theirs != ours:
        if missing:
            dataset.notices.append(f"{dataset.name} has images of {len(theirs)} of the {len(ours)} classes of the model")
        order = np.array([ours.index(name) for name in theirs], dtype=np.int64)
        for split in dataset.splits:
            split.labels = order[split.labels]
    dataset.classes = list(card.classes)


def _named(unknown, known, most=3):
    """`: 'cta' (did you mean 'cat'?), 'dgo' and 2 more are not among cat, dog, …`"""
    if not unknown:
        return ""
    names = []
    for name in unknown[:most]:
        near = most_alike(name, known)
        names.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    more = f" and {len(unknown) - most} more" if len(unknown) > most else ""
    others = ", ".join(known[:most]) + ", …" * (len(known) > most)
    return f": {', '.join(names)}{more} {'is' if len(unknown) == 1 else 'are'} not among {others}"


@DATASETS.register("FashionMNIST")
class FashionMNIST:
    """60,000 + 10,000 grey 28×28 images of clothing (Xiao et al. 2017), downloaded when absent."""

    files = (
        *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    )

    @classmethod
    def is_present(cls, folder):
        raw = pathlib.Path(folder, "FashionMNIST", "raw")
        return all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in cls.files)

    @classmethod
    def load(cls, folder):
        from torchvision import datasets  # not above: torchvision takes seconds that the other data sets spare

        try:
            with network_timeout():
                parts = [datasets.FashionMNIST(folder, train, download=True) for train in (True, False)]
            train, test = (
                Split(name, part.targets.numpy().astype(np.int64), part.data.numpy()[..., None])
                for name, part in zip(("train", "test"), parts, strict=True)
            )
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            place, reason = os.path.join(folder, "FashionMNIST", "raw"), " ".join(str(error).split())
            reason = re.sub(r".*<urlopen error (?:\[Errno -?\d+\] )?(.+)>.*", r"\1", reason)[:80]
            raise UserError(
                f"FashionMNIST is not in {place} and could not be downloaded ({reason}); name the folder that holds "
                "FashionMNIST/raw/ (docs/data.md says what is in it)",
                option="data_dir",
            ) from None
        return Dataset("FashionMNIST", list(parts[0].classes), train, test=test)


@DATASETS.register("digits")
class Digits:
    """1,797 grey 8×8 handwritten digits that scikit-learn carries with it; a fifth of them, stratified, is the test split."""

    @staticmethod
    def is_present(folder):
        return importlib.util.find_spec("sklearn") is not None

    @staticmethod
    def load(folder):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # 0–16 in the file
        labels = bunch.target.astype(np.int64)
        kept, held = stratified_split(labels, 0.2)
        whole = Split("train", labels, images)
        return Dataset("digits", [str(i) for i in range(10)], whole.subset(kept), test=whole.subset(held, "test"))
