"""The data sets by name or path, and the one that a model was trained on."""

import os
import pathlib
import socket

import numpy as np

from utils.core.errors import UserError
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
        dataset = DATASETS[name](data_dir)
    elif os.path.isdir(name):
        dataset = image_folder(name)
    elif os.path.exists(name):
        raise UserError(f"--dataset {name} is a file; give the folder that holds train/<class>/…")
    elif os.sep in str(name) or str(name).startswith("."):
        raise UserError(f"--dataset {name} does not exist; give the folder that holds train/<class>/…")
    else:
        DATASETS[name]  # raises with the known names
    if dataset.val is None and val_fraction > 0:
        kept, held = stratified_split(dataset.train.labels, val_fraction)
        if not len(held):
            raise UserError(f"--val_fraction {val_fraction} of {len(dataset.train)} images holds out none; give more")
        dataset.train, dataset.val = dataset.train.subset(kept), dataset.train.subset(held, "val")
    return dataset


def dataset_of(card, dataset=None, data_dir=None):
    """The data set that a model was trained on, as its card says, unless told otherwise.

    Raises UserError where neither says, where the folder has gone, and where the classes are not those of the card.
    """
    facts = card.training
    name = dataset or facts.get("dataset")
    if name is None:
        raise UserError("the model card names no data set; say which with --dataset")
    opened = open_dataset(name, data_dir or facts.get("data_dir", "data/"), facts.get("val_fraction", 0.1))
    if len(opened.classes) != card.num_classes:
        raise UserError(f"--dataset {name} has {len(opened.classes)} classes, the model was trained on {card.num_classes}")
    if facts.get("dataset") and sorted(opened.classes) != sorted(card.classes):
        theirs, ours = (", ".join(classes[:3]) + ", …" * (len(classes) > 3) for classes in (opened.classes, card.classes))
        raise UserError(f"--dataset {name} has other classes ({theirs}) than the model was trained on ({ours})")
    if opened.classes != card.classes and sorted(opened.classes) == sorted(card.classes):
        order = {label: card.classes.index(name) for label, name in enumerate(opened.classes)}
        for split in filter(None, (opened.train, opened.val, opened.test)):
            split.labels = np.array([order[label] for label in split.labels], dtype=np.int64)
        opened.classes = list(card.classes)
    return opened


@DATASETS.register("FashionMNIST")
def fashion_mnist(data_dir):
    """60,000 + 10,000 grey 28×28 pictures of clothing (Xiao et al. 2017), downloaded to `data_dir` when absent."""
    from torchvision.datasets import FashionMNIST  # not above: torchvision takes seconds that the other data sets spare

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        parts = [FashionMNIST(data_dir, train=train, download=not _fashion_mnist_is_in(data_dir)) for train in (True, False)]
        splits = [
            Split(name, p.targets.numpy().astype(np.int64), p.data.numpy()[..., None])
            for name, p in zip(("train", "test"), parts, strict=True)
        ]
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        folder = os.path.join(data_dir, "FashionMNIST", "raw")
        reason = " ".join(str(error).split())
        raise UserError(
            f"FashionMNIST is not readable in {folder} and could not be downloaded ({reason}): put train-images-idx3-ubyte.gz, "
            f"train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz there, or take --dataset "
            f"digits, which needs no network"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return Dataset("FashionMNIST", list(FashionMNIST.classes), splits[0], test=splits[1])


def _fashion_mnist_is_in(data_dir):
    raw = pathlib.Path(data_dir, "FashionMNIST", "raw")
    kinds = ("images-idx3", "labels-idx1")
    return all((raw / f"{part}-{kind}-ubyte").exists() for part in ("train", "t10k") for kind in kinds)


@DATASETS.register("digits")
def digits(data_dir):
    """1,797 grey 8×8 handwritten digits that scikit-learn carries with it; a fifth of them, stratified, is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # 0–16 in the file
    labels = bunch.target.astype(np.int64)
    kept, held = stratified_split(labels, 0.2)
    whole = Split("train", labels, images)
    return Dataset("digits", [str(i) for i in range(10)], whole.subset(kept), test=whole.subset(held, "test"))
