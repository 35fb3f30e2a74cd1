"""An image folder as the doctor reads it: also one that training refuses, because its splits have different classes."""

import pathlib

import numpy as np

from utils.core.errors import UserError
from utils.core.images import IMAGE_SUFFIXES
from utils.core.text import plural
from utils.data.image_folder import _class_folders, _files
from utils.data.splits import Split

SPLITS = ("train", "val", "test")


def scan_folder(root):
    """`(classes, [Split], notices)` of `root/<split>/<class>/…` or `root/<class>/…`; the classes are those of all splits.

    Raises UserError for what is no folder and for a folder without images.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder; give the one that holds train/<class>/… or the class folders", option="dataset"
        )
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"train": root}
    classes = sorted({name for folder in folders.values() for name in _class_folders(folder)})
    splits, notices = [], []
    for name, folder in folders.items():
        files = [(path, label) for label, c in enumerate(classes) if (folder / c).is_dir() for path in _files(folder / c)]
        images = [(path, label) for path, label in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if len(images) < len(files):
            notices.append(f"{plural(len(files) - len(images), 'file')} in {folder} left out: no image by the suffix")
        if images:
            paths, labels = zip(*images, strict=True)
            splits.append(Split(name, np.array(labels, dtype=np.int64), paths=list(paths)))
    if not splits:
        raise UserError(f"{root} holds no images in class folders", option="dataset")
    return classes, splits, notices
