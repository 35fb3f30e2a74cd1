"""A data set and its splits: the images, their labels, and which images are held out."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from utils.core.images import load_image

SPLIT_SEED = 0  # the held-out part is the same in every run, whatever --seed says


@dataclass
class Split:
    """Images of one part of a data set, in memory (`arrays`, uint8 (n, H, W, 1 or 3)) or as files (`paths`)."""

    name: str  # "train", "val" or "test"
    labels: np.ndarray  # int64 (n,)
    arrays: np.ndarray | None = None
    paths: list | None = None

    def __len__(self):
        return len(self.labels)

    def image(self, index):
        """One image as Pillow RGB, at its full size. Raises UserError, naming the file, where it does not decode."""
        if self.paths is not None:
            return load_image(self.paths[index])
        return Image.fromarray(self.arrays[index].squeeze()).convert("RGB")

    def subset(self, indices, name=None):
        """The split of the images at `indices`, in that order."""
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
