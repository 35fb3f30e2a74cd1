"""From a list of labelled images, whatever held it, to a data set: classes, splits, order and names."""

import pathlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from utils.core.card import read_classes
from utils.core.errors import UserError
from utils.core.text import plural
from utils.data.image_folder import SPLIT_OF, SPLITS
from utils.data.splits import Dataset, Split


@dataclass
class Rows:
    """Labelled images, one after the other, as they were found."""

    places: list = field(default_factory=list)  # of the images: see utils.data.places
    names: list = field(default_factory=list)  # of the images: see `relative_name`
    labels: list = field(default_factory=list)  # names of classes
    splits: list = field(default_factory=list)  # "train", "val" or "test"; or empty
    groups: list = field(default_factory=list)  # text; None for an image that is of no group
    notices: list = field(default_factory=list)

    def __len__(self):
        return len(self.places)

    def append(self, place, name, label, split=None, group=None):
        self.places.append(place)
        self.names.append(name)
        self.labels.append(label)
        self.groups.append(group)
        if split is not None:
            self.splits.append(split)

    def keep(self, indices):
        """Keep the images at `indices` alone, in that order."""
        for name in ("places", "names", "labels", "splits", "groups"):
            values = getattr(self, name)
            setattr(self, name, [values[i] for i in indices] if values else values)

    def all_groups(self):
        """A group for each image, its own where it has none; or None where no image has one."""
        if all(group is None for group in self.groups):
            return None
        alone = [
            name if split == "train" else f"{split}/{name}"  # one name may stand for two images in two splits
            for name, split in zip(self.names, self.splits or ["train"] * len(self), strict=True)
        ]
        groups = [name if group is None else group for name, group in zip(alone, self.groups, strict=True)]
        return np.array(groups, dtype=object)


def split_named(text, where):
    """The split that `text` names, in any case. Raises UserError, naming `where`, for others."""
    split = SPLIT_OF.get(str(text).strip().lower())
    if split is None:
        known = ", ".join(name for names in SPLITS.values() for name in names)
        raise UserError(f"{where} names the split {text!r}; known are {known}", option="split_column")
    return split


def relative_name(path):
    """The name that an image has in every kind of data set: what follows its split folder, else its whole path.

    `photos/train/cat/1.jpg`, `train/cat/1.jpg` and `cat/1.jpg` all give `cat/1.jpg`, so that the same images are held out.
    Give the path as the data set has it, from its own folder on: a folder above may be called `test` too.
    """
    path = pathlib.PurePath(path)
    parts = path.parts
    for number, part in enumerate(parts[:-1]):
        if part.lower() in SPLIT_OF and number + 1 < len(parts) - 1:
            return "/".join(parts[number + 1 :])
    return path.as_posix()


def from_class_folder(name, label):
    """A name from the folder of its class on, as class folders have it; the whole of it where no folder is called so.

    It follows from this image alone: by its name an image is held out or not, whatever others there are.
    """
    folders = name.split("/")[:-1]
    return name.split("/", folders.index(label))[-1] if label in folders else name


def split_in_path(path):
    """The split that a folder in a path names, or None."""
    return next((SPLIT_OF[part.lower()] for part in pathlib.PurePath(path).parts[:-1] if part.lower() in SPLIT_OF), None)


def dataset_of_rows(name, rows, complete=True, class_file=None):
    """A Dataset of Rows, its images in the order in which class folders would have them.

    Classes are the labels, sorted; where they are whole numbers and `class_file` exists, the lines of it from 0 on. For
    training (`complete`) there must be training images, and no class in another split that they lack; where the other split
    lacks one, a notice says so. Raises UserError for what is missing.
    """
    if not len(rows):
        raise UserError(f"{name} holds no images", option="dataset")
    _name_classes(rows, class_file)
    splits = np.array(rows.splits or ["train"] * len(rows))
    names = _names(rows, splits)
    if complete and "train" not in splits:
        raise UserError(f"{name} has {' and '.join(sorted(set(splits)))} images but none to train on", option="dataset")
    of_split = {split: {rows.labels[i] for i in np.flatnonzero(splits == split)} for split in SPLITS if split in splits}
    classes = sorted(of_split["train"] if complete else set(rows.labels))
    if complete:
        _compare_classes(name, classes, of_split, rows.notices)
    number = {label: i for i, label in enumerate(classes)}
    order = sorted(range(len(rows)), key=lambda i: (number[rows.labels[i]], _reading_order(names[i])))
    labels, groups = np.array([number[label] for label in rows.labels]), rows.all_groups()
    parts = {}
    for split in of_split:
        chosen = [i for i in order if splits[i] == split]
        places, keys = ([values[i] for i in chosen] for values in (rows.places, names))
        parts[split] = Split(split, labels[chosen], None, places, None, keys, None if groups is None else groups[chosen])
    return Dataset(name, classes, parts.get("train"), parts.get("val"), parts.get("test"), rows.notices)


def _names(rows, splits):
    """The names of the images from the folders of their classes on; whole where a split has others of that name."""
    short = [from_class_folder(name, label) for name, label in zip(rows.names, rows.labels, strict=True)]
    keys = [*zip(splits, short, strict=True)]
    held = Counter(keys)
    shared = [held[key] > 1 for key in keys]
    if any(shared):
        what = plural(sum(shared), "image")
        rows.notices.append(f"{what} share their names from the class folder on, so their names are the whole paths")
    return [whole if alike else name for whole, name, alike in zip(rows.names, short, shared, strict=True)]


def _reading_order(name):
    *folders, base = name.split("/")
    return folders, base


def _name_classes(rows, class_file):
    if class_file is None or not class_file.is_file() or not all(label.isdecimal() for label in set(rows.labels)):
        return
    names = read_classes(class_file)
    if are_numbers(names):  # as train.py writes them, sorted as text: the labels are these names
        return
    most = max(map(int, set(rows.labels)))
    if most < len(names):
        rows.notices.append(f"the labels are numbers: {class_file} names their classes, from 0 on")
        rows.labels = [names[int(label)] for label in rows.labels]


def are_numbers(names):
    """Whether all names of classes are whole numbers, so that a label is a name and not the place of one."""
    return all(name.isdecimal() for name in names)


def _compare_classes(name, classes, of_split, notices):
    for split, labels in of_split.items():
        unknown = sorted(labels.difference(classes))
        if unknown:
            raise UserError(f"{name}: the {split} images have classes that no training image has: {listed(unknown)}", "dataset")
        missing = [label for label in classes if label not in labels]
        if missing:
            notices.append(f"no {split} image has {plural(len(missing), 'class', 'classes')}: {listed(missing)}")


def listed(names, most=5):
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def counted(reasons):
    """A list of (reason, example) as lines: `2 images (listed twice): a.jpg, b.jpg`."""
    examples = {reason: [text for other, text in reasons if other == reason] for reason in Counter(r for r, _ in reasons)}
    return [f"{plural(len(found), 'image')} ({reason}): {listed(found, 3)}" for reason, found in examples.items()]
