"""Image folders: one folder a class, in split folders or flat."""

import os
import pathlib

import numpy as np

from utils.core.errors import UserError
from utils.core.images import IMAGE_SUFFIXES
from utils.core.text import plural
from utils.data.splits import Dataset, Split


def image_folder(root):
    """`root/train/<class>/…`, optional `root/val/<class>/…` and `root/test/<class>/…`, or just `root/<class>/…`.

    Classes are the names of the folders under train, sorted; the other splits are matched to them by name. Hidden files
    and folders are ignored, and files that are no images by their suffix are left out with a notice. Raises UserError
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
            notices.append(f"{plural(others, 'file')} in {folder} left out: no image by the suffix")
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
