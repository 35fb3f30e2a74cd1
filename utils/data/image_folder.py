"""Image folders: one folder for each class, either in split folders (train/, val/, test/) or alone."""

import pathlib

import numpy as np

from utils.core.errors import UserError
from utils.core.text import plural, printable
from utils.core.walk import find_images, summary
from utils.data.splits import Dataset, Split

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


def image_folder(root, complete=True):
    """Read `root/train/<class>/…`, `root/val/<class>/…` and `root/test/<class>/…`, or just `root/<class>/…`.

    Split folders are known by their names in SPLITS, in any case. Without any, all images are the training split. Classes are
    the names of the class folders, sorted. For training (`complete`) there must be a training split, and every split must
    have images of all its classes; for an evaluation any split and any of the classes will do.

    Every file and folder that is left out is in the notices of the Dataset. Raises UserError for a folder that can be read
    in two ways, with both of them, and for everything that is missing, by name.
    """
    root = pathlib.Path(root)
    try:
        found = find_images(root)
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror})") from None
    tree = _Tree(root, found.images)
    folders = _split_folders(tree)
    notices = summary(found.left_out)
    if folders:
        splits = {split: tree.classes_in(name) for split, name in folders.items()}
        notices += [_unused(tree, name) for name in tree.images if name not in folders.values()]
    else:
        _check_flat(tree, complete)
        folders, splits = {"train": ""}, {"train": tree.images}
    if not complete:
        splits = {split: by_class for split, by_class in splits.items() if any(by_class.values())} or splits
    elif "train" not in splits:
        names = " and ".join(f"{name}/" for name in folders.values())
        raise UserError(f"{root} has {names} but no train/ with the training images")
    there = splits["train"] if complete else {name for by_class in splits.values() for name, paths in by_class.items() if paths}
    classes = sorted(there)
    faults = _faults({split: root / name for split, name in folders.items()}, splits, classes, complete)
    if faults:
        raise UserError("; ".join(faults))
    loose = [path for name in dict.fromkeys(["", *folders.values()]) for path in tree.loose(name)]
    notices += summary([(path, "in no class folder") for path in loose])
    parts = {split: _as_split(split, root / folders[split], by_class, classes) for split, by_class in splits.items()}
    return Dataset(printable(root.resolve().name), classes, parts.get("train"), parts.get("val"), parts.get("test"), notices)


class _Tree:
    """The folders of a data set and the images under them."""

    def __init__(self, root, images):
        self.root, self.depth = root, len(root.parts)
        self.images = {name: [] for name in _subfolders(root)}  # by the folder directly under the root
        self.images[""] = []
        for path in images:
            parts = self.parts(path)
            self.images[parts[0] if len(parts) > 1 else ""].append(path)
        self.directly = self.images.pop("")

    def parts(self, path):
        """The names of an image's path from the root on."""
        return path.parts[self.depth :]

    def nested(self, name):
        """The names of the folders with images under a folder of the root."""
        return {parts[1] for parts in map(self.parts, self.images[name]) if len(parts) > 2}

    def loose(self, name):
        """The images that lie in a folder of the root, or with "" in the root, and not in a class folder."""
        return [path for path in self.images[name] if len(self.parts(path)) == 2] if name else self.directly

    def classes_in(self, name):
        """{class: its images} of a split folder."""
        by_class = {inner: [] for inner in _subfolders(self.root / name)}
        for path in self.images[name]:
            parts = self.parts(path)
            if len(parts) > 2:
                by_class[parts[1]].append(path)
        return by_class


def _subfolders(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _split_folders(tree):
    """{split: name of its folder}, or {} where the folders under the root are classes. Raises UserError for two readings."""
    named = {name: SPLIT_OF[name.lower()] for name in tree.images if name.lower() in SPLIT_OF}
    others = [name for name in tree.images if name not in named and tree.images[name]]
    with_classes = [name for name in named if tree.nested(name)]
    if not named or (others and not with_classes and len(named) == 1):
        return {}  # a class may be called "train", if there are other classes and no folders in it
    root, names, more = tree.root, _listed(named), _listed(others)
    if others and len(with_classes) < 2:
        raise UserError(
            f"{root} can be read in two ways: {names} as split folders, with {more} left out, or all of them as classes. "
            f"Move {more} elsewhere for the first, or rename {names} for the second"
        )
    chosen = {}
    for split in SPLITS:
        same = [name for name in named if named[name] == split]
        filled = [name for name in same if tree.images[name]]
        if len(filled) > 1:
            raise UserError(f"{root} can be read in two ways: {_listed(filled)} could each be the {split} split; keep one")
        if same:
            chosen[split] = (filled or same)[0]
    return chosen


def _check_flat(tree, complete):
    """Raises UserError where the folders that would be classes look like data sets themselves."""
    root, filled = tree.root, [name for name in tree.images if tree.images[name]]
    inner = {name: tree.nested(name) for name in filled}
    splits = {name: sorted(folder for folder in inner[name] if folder.lower() in SPLIT_OF) for name in filled}
    if len(filled) == 1:
        (name,) = filled
        if splits[name] or (complete and len(inner[name]) > 1 and not tree.loose(name)):
            raise UserError(
                f"{root} can be read in two ways: as one class, {name}, or as the folder that a data set lies in. "
                f"Give {root / name} for the second"
            )
    elif filled and all(splits.values()):
        raise UserError(
            f"{root} can be read in two ways: as the classes {_listed(filled)} without splits, or with split folders inside of "
            f"each class ({_listed(splits[filled[0]])} in {filled[0]}/). For the second, make it train/<class>/…"
        )


def _faults(folders, splits, classes, complete):
    faults = []
    for split, by_class in splits.items():
        folder = folders[split]
        if not by_class:
            faults.append(f"{folder} holds no class folders; put the images of each class into a folder with its name")
        elif not any(by_class.values()):
            faults.append(f"{folder} holds no images")
        if complete:
            faults += [f"class {name!r} is missing in {folder}" for name in classes if name not in by_class]
            faults += [f"class {name!r} in {folder} is not in {folders['train']}" for name in by_class if name not in classes]
            faults += [f"class folder {folder / name} holds no images" for name in classes if by_class.get(name) == []]
    return faults


def _as_split(split, folder, by_class, classes):
    labelled = [(path, label) for label, name in enumerate(classes) for path in by_class.get(name, ())]
    labels = np.array([label for _, label in labelled], dtype=np.int64)
    return Split(split, labels, paths=[path for path, _ in labelled], root=folder)


def _unused(tree, name):
    return f"left out the folder {printable(tree.root / name)} ({plural(len(tree.images[name]), 'image')}): it is no split"


def _listed(names):
    """`a/, b/ and c/`; no more than five by name."""
    names = [f"{name}/" for name in names]
    names = names if len(names) <= 5 else [*names[:4], f"{len(names) - 4} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
