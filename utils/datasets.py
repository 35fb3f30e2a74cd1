"""The data sets: who is in which split, the pictures themselves, and batches of them.

A `Split` is a list of pictures with labels, which `utils.stores.open_store` decodes for fast gathering. From a store come
training batches (`train_batches`) and evaluation batches (`eval_batches`), both as uint8 until they are on the device that
computes.
"""

import os
import pathlib
import socket
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from utils.augment import centre_crops, normalise
from utils.errors import UserError
from utils.preprocess import IMAGE_SUFFIXES, load_image
from utils.registry import Registry
from utils.runtime import send
from utils.stores import open_store

DATASETS = Registry("data set")
SPLIT_SEED = 0  # the held-out part is the same in every run, whatever --seed says


@dataclass
class Split:
    """Pictures of one part of a data set, in memory (`arrays`, uint8 (n, H, W, 1 or 3)) or as files (`paths`)."""

    name: str  # "train", "val" or "test"
    labels: np.ndarray  # int64 (n,)
    arrays: np.ndarray | None = None
    paths: list | None = None

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        """One picture as Pillow RGB, at its full size. Raises UserError, naming the file, where it does not decode."""
        if self.paths is not None:
            return load_image(self.paths[index])
        return Image.fromarray(self.arrays[index].squeeze()).convert("RGB")

    def subset(self, indices, name=None):
        """The split of the pictures at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return Split(
            name or self.name,
            self.labels[indices],
            None if self.arrays is None else self.arrays[indices],
            None if self.paths is None else [self.paths[i] for i in indices],
        )


@dataclass
class Dataset:
    """A name that is safe in paths, the classes in the order of their labels, and up to three splits."""

    name: str
    classes: list
    train: Split | None
    val: Split | None = None
    test: Split | None = None
    notices: list = field(default_factory=list)  # what the user should know about how it was read

    @property
    def held_out(self):
        """The split that accuracy is reported on at the end: test where there is one, else val."""
        return self.test or self.val


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


def stratified_split(labels, fraction):
    """Indices `(kept, held_out)`, each sorted: of every class, the nearest whole number to `fraction` is held out.

    A class never loses its last picture, and one of at least two always gives one where `fraction` is above 0.
    """
    random = np.random.default_rng(SPLIT_SEED)
    held = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.append(members[:count])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held


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


def image_folder(root):
    """`root/train/<class>/…`, optional `root/val/<class>/…` and `root/test/<class>/…`, or just `root/<class>/…`.

    Classes are the names of the folders under train, sorted; the other splits are matched to them by name. Hidden files
    and folders are ignored, and files that are no pictures by their suffix are left out with a notice. Raises UserError
    that names every missing, extra or empty class folder and every split without images.
    """
    root = pathlib.Path(root)
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in folders:
        if folders:
            raise UserError(f"{root} has {' and '.join(f'{name}/' for name in folders)} but no train/ with the training images")
        folders = {"train": root}
    classes = _class_folders(folders["train"])
    if not classes:
        raise UserError(f"{folders['train']} holds no class folders; put the images of each class into a folder with its name")
    faults, notices, splits = [], [], {}
    for name, folder in folders.items():
        present = _class_folders(folder)
        faults += [f"class {c!r} is missing in {folder}" for c in classes if c not in present]
        faults += [f"class {c!r} in {folder} is not in {folders['train']}" for c in present if c not in classes]
        paths, labels, others = [], [], 0
        for label, class_name in enumerate(classes):
            files = _files(folder / class_name) if class_name in present else []
            images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
            others += len(files) - len(images)
            if class_name in present and not images:
                faults.append(f"class folder {folder / class_name} holds no images")
            paths += images
            labels += [label] * len(images)
        if not paths:
            faults.append(f"{folder} holds no images")
        if others:
            notices.append(f"{others} file{'s' * (others != 1)} in {folder} left out: no image by the suffix")
        splits[name] = Split(name, np.array(labels, dtype=np.int64), paths=paths)
    if faults:
        raise UserError("; ".join(faults))
    return Dataset(root.resolve().name, classes, splits["train"], splits.get("val"), splits.get("test"), notices)


def _class_folders(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder):
    """Files at any depth under `folder`, sorted; nothing hidden, and no file in a hidden folder."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [pathlib.Path(here, name) for name in sorted(files) if not name.startswith(".")]
    return found


def needs_workers(store, device):
    """Whether loader workers have something to do: to decode, or to gather for a GPU that does not hold the pictures."""
    tensor = getattr(store, "images", getattr(store, "flat", None))
    return store.needs_workers or tensor.device.type != device.type


def train_batches(store, labels, indices, device, workers=0, seed=0):
    """Yield (Pixels, labels) on `device` for each index tensor of `indices`; `seed` is for what workers draw.

    Where `needs_workers` says so, workers do it ahead of time and, for a GPU, into pinned memory; the rest happens here.
    """
    helped = needs_workers(store, device)
    loader = torch.utils.data.DataLoader(
        _Gathered(store, labels),
        batch_size=None,
        sampler=indices,
        collate_fn=_as_it_is,
        num_workers=workers if helped else 0,
        prefetch_factor=4 if helped and workers else None,
        pin_memory=helped and device.type == "cuda",
        worker_init_fn=_own_group,
        generator=torch.Generator().manual_seed(seed),  # its own, so that the global one stays where the run has it
    )
    for pixels, batch_labels in loader:
        yield pixels.to(device), send(batch_labels, device)


def eval_batches(split, card, batch_size, device="cpu", *, store=None, workers=0, shard=(0, 1)):
    """Yield (images, labels) in the order of the split, through the preprocessing of the card.

    images: float32 (N, 3, S, S) normalised; labels: int64 (N,). `store` saves decoding again what training has decoded.
    `shard` is (number, count): the part of a split that one of several processes takes, contiguous and none twice.
    """
    device = torch.device(device)
    store = store or open_store(split, card.resize_size, cache="off")
    mine = torch.arange(len(split)).tensor_split(shard[1])[shard[0]]
    labels = torch.from_numpy(split.labels)
    for pixels, batch_labels in train_batches(store, labels, mine.split(batch_size) if len(mine) else [], device, workers):
        yield normalise(centre_crops(pixels, card.image_size, card.resize_size), card.mean, card.std), batch_labels


def _own_group(worker):
    """What torchrun or a terminal sends to all processes of a run is for the first, which lets its workers finish the step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


class _Gathered(torch.utils.data.Dataset):
    """Batches by the tensor of their indices."""

    def __init__(self, store, labels):
        self.store, self.labels = store, labels

    def __getitem__(self, indices):
        return self.store.gather(indices), self.labels[indices]


def _as_it_is(batch):
    return batch
