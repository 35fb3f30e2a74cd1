"""Data sets in the formats of Hugging Face: a name of theirs, a folder that their library reads, or a Parquet file."""

import functools
import io
import os
import pathlib
from dataclasses import dataclass

from utils.core.errors import UserError
from utils.data.image_folder import SPLIT_OF
from utils.data.rows import Rows, dataset_of_rows, listed, relative_name
from utils.data.tables import GUESSES

PREFIX = "hf:"


@dataclass(frozen=True, slots=True)
class Row:
    """An image whose bytes stand in a row of a table of the library."""

    target: str  # what was loaded
    split: str  # the name that the library has for it
    column: str
    index: int
    size: int
    name: str
    file: pathlib.Path  # that holds the table

    def __str__(self):
        return f"{PREFIX}{self.target} {self.split}[{self.index}] {self.name}"

    def content(self):
        """A binary stream of the encoded image."""
        column = _load(self.target)[self.split].data.column(self.column)
        return io.BytesIO(column[self.index]["bytes"].as_py())

    def facts(self):
        return [str(self), self.size]


def is_hugging_face(name):
    return name.startswith(PREFIX)


def is_local(name):
    """Whether a name is that of a folder or file of this machine, which needs no network."""
    return os.path.exists(name.removeprefix(PREFIX))


def read_hugging_face(name, reading, complete=True):
    """The Dataset behind `hf:NAME_OR_FOLDER`. Image and label column are the features of these kinds, unless named.

    The splits are those of the library, as far as their names are known here. Raises UserError in a sentence where the library
    is missing, where it cannot load the name, and where no column is an image.
    """
    target = name.removeprefix(PREFIX)
    parts, rows = _load(target), Rows()
    for part, table in parts.items():
        split = SPLIT_OF.get(part.lower(), "train" if len(parts) == 1 else None)
        if split is None:
            rows.notices.append(f"left out the split {part} ({table.num_rows:,} images)")
            continue
        image, label = _columns(table, reading)
        if not _is_labelled(table, label):
            rows.notices.append(f"left out the split {part} ({table.num_rows:,} images): none of them has a label")
            continue
        group = reading.group_column or _group_column(table)
        groups = f", groups in {group!r}" if group else ""
        rows.notices += [f"{part}: images are in {image!r}, labels in {label!r}{groups}"]
        _add_rows(rows, target, part, split, (image, label, group))
    base = pathlib.PurePath(target)
    return dataset_of_rows(base.stem if base.suffix == ".parquet" else base.name, rows, complete)


@functools.lru_cache(maxsize=4)
def _load(target):
    """A DatasetDict whose images are left encoded."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{PREFIX}{target} needs the package datasets (pip install datasets)", option="dataset") from None
    datasets.disable_progress_bars()
    try:
        if target.endswith(".parquet"):
            parts = datasets.load_dataset("parquet", data_files=target)
        elif os.path.exists(os.path.join(target, "dataset_dict.json")) or os.path.exists(os.path.join(target, "state.json")):
            parts = datasets.load_from_disk(target)
        else:
            parts = datasets.load_dataset(target)
    except Exception as error:  # of the library, of its readers and of the network: it documents none
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{PREFIX}{target} cannot be loaded ({type(error).__name__}: {reason})", option="dataset") from None
    parts = parts if isinstance(parts, dict) else {"train": parts}
    return {name: _encoded(part, datasets.Image) for name, part in parts.items()}


def _encoded(part, image):
    columns = [name for name, feature in part.features.items() if isinstance(feature, image)]
    for name in columns:
        part = part.cast_column(name, image(decode=False))
    return part.flatten_indices() if part._indices is not None else part


def _columns(part, reading):
    """The names of the image and of the label column."""
    import datasets

    features = part.features
    chosen = []
    for role, kind, usual in (("image_column", datasets.Image, ("image",)), ("label_column", datasets.ClassLabel, ("label",))):
        given = getattr(reading, role)
        fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
        fitting = fitting or [name for name in usual if name in features]
        if given is not None and given not in features:
            raise UserError(f"there is no column {given!r}; the columns are {', '.join(features)}", option=role)
        if given is None and not fitting:
            raise UserError(f"which of the columns {', '.join(features)} is the {role.replace('_column', '')}?", option=role)
        chosen.append(given or fitting[0])
    return chosen


def _group_column(table):
    """The column that is called as one of groups and has a text or a number in each row, or None."""
    columns = {name.lower(): name for name in table.features}
    for name in GUESSES["group_column"].split():
        column = columns.get(name)
        if column and all(isinstance(value, (str, int)) for value in table.data.column(column).to_pylist()):
            return column
    return None


def _is_labelled(table, label):
    """Whether a row has a class. Test splits whose answers are kept secret have none: -1 where the classes have names."""
    named = bool(getattr(table.features.get(label), "names", None))
    return any(value is not None and not (named and value < 0) for value in table.data.column(label).to_pylist())


def _add_rows(rows, target, part, split, columns):
    from pyarrow import compute

    table, (image, label, group) = _load(target)[part], columns
    if not isinstance(getattr(table.features[image], "decode", None), bool):
        raise UserError(f"the column {image!r} holds no images", option="image_column")
    column = table.data.column(image)
    paths = compute.struct_field(column, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
    labels = _texts(table, label, "label_column")
    groups = _texts(table, group, "group_column") if group is not None else [None] * len(labels)
    file = pathlib.Path(table.cache_files[0]["filename"] if table.cache_files else target)
    for index, (path, size, text, its_group) in enumerate(zip(paths, sizes, labels, groups, strict=True)):
        if size is None and path is None:
            raise UserError(f"row {index} of {part} has no image", option="image_column")
        name = relative_name(_from(target, path) if path else f"{index:09}")
        name = name if "/" in name else f"{text}/{name}"  # as in class folders
        place = pathlib.Path(path) if size is None else Row(target, part, image, index, size, name, file)
        rows.append(place, name, text, split, its_group)


def _from(target, path):
    """The path of an image from the folder that was loaded; what the folders above it are called says nothing of it."""
    folder = target if os.path.isdir(target) else os.path.dirname(target)
    return os.path.relpath(path, folder) if os.path.isabs(path) and is_local(target) else path


def _texts(table, column, option):
    """A column as text: the names of classes, where its feature has them; of these, -1 is no class."""
    if column not in table.features:
        raise UserError(f"there is no column {column!r}; the columns are {listed(list(table.features))}", option=option)
    values, names = table.data.column(column).to_pylist(), getattr(table.features[column], "names", None)
    values = [None if names and value is not None and value < 0 else value for value in values]
    if any(value is None for value in values):
        raise UserError(f"the column {column!r} has no value in row {values.index(None)}", option=option)
    return [names[value] for value in values] if names else [str(value) for value in values]
