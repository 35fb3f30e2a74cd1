"""The data sets by name or path, and the one that a model was trained on.

A new data set is one class under `@DATASETS.register(name)`: `load(folder)` returns a Dataset, `is_present(folder)` says
whether its files are in the folder already.
"""

import importlib.util
import os
import pathlib

import numpy as np

from utils.core.errors import UserError
from utils.core.machine import network_timeout
from utils.core.registry import Registry
from utils.data.image_folder import image_folder
from utils.data.splits import Dataset, Split, stratified_split

DATASETS = Registry("data set")


def open_dataset(name, data_dir="data/", val_fraction=0.1):
    """A registered data set by name, or an image folder by path.

    `val_fraction` of the training part is held out for selection, stratified and the same in every run; an image folder
    with its own `val/` keeps that. Raises UserError for an unknown name and for everything wrong with the files.
    """
    if name in DATASETS:
        dataset = DATASETS[name].load(pathlib.Path(data_dir))
    elif os.path.isdir(name):
        dataset = image_folder(name)
    elif os.path.exists(name):
        raise UserError(f"{name} is a file; give the folder that holds train/<class>/…", option="dataset")
    elif os.sep in str(name) or str(name).startswith("."):
        raise UserError(f"{name} does not exist; give the folder that holds train/<class>/…", option="dataset")
    else:
        DATASETS[name]  # raises with the known names
    if dataset.val is None and val_fraction > 0:
        kept, held = stratified_split(dataset.train.labels, val_fraction)
        if not len(held):
            count = len(dataset.train)
            raise UserError(f"a share of {val_fraction} of {count} images holds out none; give more", option="val_fraction")
        dataset.train, dataset.val = dataset.train.subset(kept), dataset.train.subset(held, "val")
    return dataset


def is_present(name, data_dir="data/"):
    """Whether a data set can be opened without a download: a registered one in `data_dir`, an image folder by its path."""
    return DATASETS[name].is_present(pathlib.Path(data_dir)) if name in DATASETS else os.path.isdir(name)


def dataset_of(card, dataset=None, data_dir=None):
    """The data set that a model was trained on, as its card says, unless told otherwise.

    Raises UserError where neither says, where the folder has gone, and where the classes are not those of the card.
    """
    facts = card.training
    name = dataset or facts.get("dataset")
    if name is None:
        raise UserError("the model card names no data set; say which", option="dataset")
    opened = open_dataset(name, data_dir or facts.get("data_dir", "data/"), facts.get("val_fraction", 0.1))
    if len(opened.classes) != card.num_classes:
        raise UserError(
            f"{name} has {len(opened.classes)} classes, the model was trained on {card.num_classes}", option="dataset"
        )
    if facts.get("dataset") and sorted(opened.classes) != sorted(card.classes):
        theirs, ours = (", ".join(classes[:3]) + ", …" * (len(classes) > 3) for classes in (opened.classes, card.classes))
        raise UserError(f"{name} has other classes ({theirs}) than the model was trained on ({ours})", option="dataset")
    if opened.classes != card.classes and sorted(opened.classes) == sorted(card.classes):
        order = {label: card.classes.index(name) for label, name in enumerate(opened.classes)}
        for split in filter(None, (opened.train, opened.val, opened.test)):
            split.labels = np.array([order[label] for label in split.labels], dtype=np.int64)
        opened.classes = list(card.classes)
    return opened


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
            raise UserError(
                f"FashionMNIST is not readable in {os.path.join(folder, 'FashionMNIST', 'raw')} and could not be downloaded "
                f"({' '.join(str(error).split())}): put {', '.join(f'{name}.gz' for name in cls.files[:-1])} and "
                f"{cls.files[-1]}.gz there, or take the data set digits, which needs no network"
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
