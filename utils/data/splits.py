"""A data set and its splits: the images, their labels, and which images are held out."""

import hashlib
import os
import unicodedata
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.text import printable

SPLIT_SEED = 0  # the held-out part is the same in every run, whatever --seed says


@dataclass
class Split:
    """Images of one part of a data set, in memory (`arrays`, uint8 (n, H, W, 1 or 3)) or as files (`paths`)."""

    name: str  # "train", "val" or "test"
    labels: np.ndarray  # int64 (n,)
    arrays: np.ndarray | None = None
    paths: list | None = None  # pathlib.Path, or utils.data.places.Piece and the like
    root: object | None = None  # pathlib.Path of the folder that holds the class folders
    keys: list | None = None  # names of the images, where they are not the paths below `root`
    groups: np.ndarray | None = None  # text (n,): images of one group never stand in two splits

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        """One image as Pillow RGB, at its full size. Raises UserError, naming the file, where it does not decode."""
        if self.paths is not None:
            return load_image(self.paths[index])
        return Image.fromarray(self.arrays[index].squeeze()).convert("RGB")

    def place(self, index):
        """Where an image is from: its path, or `test image 12`, counted from 0."""
        return f"{self.name} image {index}" if self.paths is None else str(self.paths[index])

    def subset(self, indices, name=None):
        """The split of the images at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return Split(
            name or self.name,
            self.labels[indices],
            None if self.arrays is None else self.arrays[indices],
            None if self.paths is None else [self.paths[i] for i in indices],
            self.root,
            None if self.keys is None else [self.keys[i] for i in indices],
            None if self.groups is None else self.groups[indices],
        )

    def __getitem__(self, part):
        """`split[2:5]`: the split of those images."""
        return self.subset(np.arange(len(self))[part])

    def names(self):
        """A name for each image, "/" between its parts: the same on every machine, and whatever holds the images."""
        return self.keys if self.keys is not None else [path.relative_to(self.root).as_posix() for path in self.paths]


def images_digest(dataset):
    """A checksum of the names and classes of all images but test images, however they are divided and wherever they lie.

    None where they have no names, as those of arrays and of streams.
    """
    splits = [split for split in (dataset.train, dataset.val) if split]
    if any(split.paths is None or len(split.labels) != len(split) for split in splits):
        return None
    entries = [
        f"{dataset.classes[label]}/{name}" for split in splits for name, label in zip(split.names(), split.labels, strict=True)
    ]
    digest = hashlib.sha256()
    for entry in sorted(entries):
        digest.update(os.fsencode(entry) + b"\0")
    return digest.hexdigest()[:16]


def evenly(length, count):
    """Indices (n,) of at most `count` images that lie evenly over a split of so many, from the first to the last."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def check_classes(dataset):
    """Raise UserError for a Dataset of one class, which every network answers right."""
    if len(dataset.classes) == 1:
        only = printable(dataset.classes[0])
        raise UserError(f"{dataset.name} has one class, {only}; a classifier tells two or more apart", option="dataset")


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
    def splits(self):
        """The splits that there are."""
        return [split for split in (self.train, self.val, self.test) if split]

    @property
    def reported(self):
        """The split that a score is reported on unless told otherwise."""
        return self.held_out or self.train

    @property
    def held_out(self):
        """The split that accuracy is reported on at the end: test where there is one, else val."""
        return self.test or self.val


def hold_out(split, fraction):
    """`(kept, held_out)`: indices of a Split, each sorted, about `fraction` of every class held out; the same in every run.

    Files are chosen by the names of their groups, or by their own, alone, so that none changes sides when others are added
    or removed: see `split_by_name`. Arrays are chosen by `stratified_split`.
    """
    if split.paths is None:
        return stratified_split(split.labels, fraction)
    return split_by_name(split.names() if split.groups is None else split.groups, split.labels, fraction)


def split_by_name(names, labels, fraction):
    """Indices `(kept, held_out)`, each sorted: held out are the images whose name has a hash below `fraction` of its range.

    Images of one name stay together. A class never loses its last name, and one of at least two always gives one where
    `fraction` is above 0 and no other class needs it; only for that can an image change sides when others come or go.
    """
    known = {name: _hash(name) for name in set(names)}
    hashes = np.array([known[name] for name in names])
    chosen = hashes < fraction
    of_class = [np.unique(hashes[labels == label]) for label in np.unique(labels)]  # sorted
    chosen[np.isin(hashes, [first for first, *more in of_class if more])] = True
    chosen[np.isin(hashes, [last for *_, last in of_class])] = False
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _hash(name):
    """A number from 0 to 1, evenly distributed over names."""
    name = unicodedata.normalize("NFC", name)  # macOS stores accents in another form
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def stratified_split(labels, fraction):
    """Indices `(kept, held_out)`, each sorted: of every class, the nearest whole number to `fraction` is held out.

    A class never loses its last image, and one of at least two always gives one where `fraction` is above 0.
    """
    random = np.random.default_rng(SPLIT_SEED)
    held = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.append(members[:count])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held
