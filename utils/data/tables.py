"""Tables (.csv, .tsv, .parquet) and lists (.txt) of images with their labels."""

import csv
import os
import pathlib
import re

from utils.core.errors import UserError
from utils.core.walk import is_image_name
from utils.data.image_folder import SPLIT_OF
from utils.data.rows import Rows, counted, dataset_of_rows, listed, relative_name, split_in_path, split_named

GUESSES = {  # names of columns, the first that is there is taken
    "image_column": "image image_path img_path img path image_file file_path filepath file filename file_name image_name "
    "image_id name id url",
    "label_column": "label class category target species y label_name class_name labels diagnosis",
    "split_column": "split subset partition fold_name set dataset phase",
    "group_column": "group group_id patient patient_id subject subject_id animal animal_id individual video video_id",
}
COMMENT = "#"


def read_table(path, reading, complete=True):
    """The Dataset that a table describes, one image a row; images are paths from the folder of the table.

    Columns that `reading` (Reading) does not name are guessed by GUESSES, and notices say so. Where no column names the splits,
    folders in the paths do, or the tables beside `train.csv`. Raises UserError for columns and files that are not there.
    """
    return _dataset(pathlib.Path(path), reading, complete, _table_rows)


def read_list(path, reading, complete=True):
    """The Dataset of a text file with `path label` a line: split at the tab, else at the last blank. # begins a comment."""
    return _dataset(pathlib.Path(path), reading, complete, _list_rows)


def _dataset(path, reading, complete, read):
    rows = Rows()
    read(path, reading, rows, None)
    name, stem = path.stem, path.stem.lower()
    if not rows.splits and stem in SPLIT_OF:
        _add_siblings(path, reading, rows, read)
        name = path.resolve().parent.name
    if not rows.splits:
        _splits_from_paths(path, rows)
    _check_places(path, rows)
    return dataset_of_rows(name, rows, complete, path.with_name("classes.txt"))


def _table_rows(path, reading, rows, split):
    header, body = (_parquet if path.suffix.lower() == ".parquet" else _csv)(path)
    columns = _choose_columns(path, header, body, reading, rows.notices)
    for line, values in body:
        where = f"{path}, row {line}"
        image, label, given, group = (None if column is None else values[column] for column in columns)
        group = None if group == "" and reading.group_column is None else group  # a guessed column may have gaps
        for value, what in ((image, "image"), (label, "label"), (group, "group")):
            if value == "":
                raise UserError(f"{where}: the {what} is empty")
        part = split or (None if given is None else split_named(given, where))
        _append(rows, path, image, label, part, group)


def _list_rows(path, reading, rows, split):
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        line = line.strip()
        if not line or line.startswith(COMMENT):
            continue
        image, _, label = line.rpartition("\t") if "\t" in line else re.fullmatch(r"(.*?)(\s*)(\S+)", line).groups()
        if not image.strip():
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not a path and a label")
        _append(rows, path, image.strip(), label.strip(), split)


def _append(rows, table, image, label, split=None, group=None):
    place = pathlib.Path(os.path.normpath(table.parent / image))
    rows.append(place, relative_name(_from(table, place)), label, split, group)


def _from(table, place):
    """The path of an image from the folder of its table: what the folders above are called says nothing of the images."""
    return os.path.relpath(place, table.parent)


def _add_siblings(path, reading, rows, read):
    """`val.csv` and `test.csv` beside `train.csv`, by any of the names that splits have."""
    rows.splits = [SPLIT_OF[path.stem.lower()]] * len(rows)
    taken = []
    for other in sorted(path.parent.glob(f"*{path.suffix}")):
        split = SPLIT_OF.get(other.stem.lower())
        if split and split not in rows.splits:
            read(other, reading, rows, split)
            taken.append(other.name)
    if taken:
        rows.notices.append(f"the splits are those of {path.name} and of {listed(taken)} beside it")


def _splits_from_paths(table, rows):
    splits = [split_in_path(_from(table, place)) for place in rows.places]
    if all(splits) and "train" in splits and len(set(splits)) > 1:
        rows.splits = splits
        rows.notices.append(f"no column names the splits: folders in the paths do ({listed(sorted(set(splits)))})")


def _check_places(table, rows):
    """Drop what is listed twice. Raises UserError for an image with two labels, splits or groups, and for missing images."""
    known, kept, left_out = {}, [], []
    for i, place in enumerate(rows.places):
        facts = tuple(values[i] for values in (rows.labels, rows.splits, rows.groups) if values and values[i] is not None)
        if place not in known:
            known[place] = facts
            kept.append(i)
        elif known[place] == facts:
            left_out.append(("listed more than once", str(place)))
        else:
            raise UserError(f"{table}: {place} is listed as {' '.join(known[place])} and as {' '.join(facts)}")
    missing = [str(place) for place in known if not os.path.isfile(place)]
    if missing:
        raise UserError(f"{table}: {len(missing):,} of {len(known):,} images are not there: {listed(missing, 3)}")
    rows.keep(kept)
    rows.notices += [f"left out {line}" for line in counted(left_out)]


def _choose_columns(path, header, body, reading, notices):
    """Places in the header of the image, label, split and group column; None where there is no split or group."""
    if any(is_image_name(name) for name in header):
        raise UserError(f"{path} has no header line; write one, such as image,label", option="dataset")
    chosen, lower = {}, [name.strip().lower() for name in header]
    for role, names in GUESSES.items():
        given = getattr(reading, role)
        if given is not None:
            if given not in header:
                raise UserError(f"{path} has no column {given!r}; its columns are {', '.join(header)}", option=role)
            chosen[role] = header.index(given)
        else:
            free = [lower.index(name) for name in names.split() if name in lower]
            free = [column for column in free if column not in chosen.values()]
            if role == "split_column":
                free = [column for column in free if _names_splits(header[column], column, body, notices)]
            chosen[role] = free[0] if free else None
    first = body[0][1] if body else [""] * len(header)
    if chosen["image_column"] is None or (reading.image_column is None and not is_image_name(first[chosen["image_column"]])):
        images = [i for i, value in enumerate(first) if is_image_name(value) and i not in chosen.values()]
        chosen["image_column"] = images[0] if images else chosen["image_column"]
    others = [i for i in range(len(header)) if i not in chosen.values()]
    if chosen["label_column"] is None and len(others) == 1:
        chosen["label_column"] = others[0]
    for role in ("image_column", "label_column"):
        if chosen[role] is None:
            raise UserError(f"{path}: which of the columns {', '.join(header)} is the {role.replace('_column', '')}?", role)
    guessed = {role: i for role, i in chosen.items() if getattr(reading, role) is None and i is not None}
    if guessed:
        words = ", ".join(f"{role.replace('_column', '')}s are in {header[i]!r}" for role, i in guessed.items())
        notices.append(f"columns of {path.name}, guessed by their names: {words}")
    return tuple(chosen.values())


def _names_splits(name, column, body, notices):
    """Whether a column names splits, to judge by its own name: `split` is clear, of the others one cell must name one.

    A notice says where none does.
    """
    found = name.strip().lower() == "split" or any(values[column].strip().lower() in SPLIT_OF for _, values in body)
    if body and not found:
        notices.append(f"column {name!r} names no split ({body[0][1][column]!r}), so it is not taken for that of the splits")
    return found or not body


def _text_of(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise UserError(f"{path} cannot be read ({reason})", option="dataset") from None


def _csv(path):
    """`(header, [(row number, values)])`; the delimiter of a .csv is the likeliest of comma, semicolon and tab."""
    lines = _text_of(path).splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(value.strip() for value in row)]
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error})", option="dataset") from None
    if not rows:
        raise UserError(f"{path} is empty", option="dataset")
    (_, header), *body = rows
    for line, values in body:
        if len(values) != len(header):
            raise UserError(f"{path}, row {line}: {len(values)} values under {len(header)} column names", option="dataset")
    return header, body


def _parquet(path):
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow (pip install pyarrow), or write it as .csv", "dataset") from None
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})", option="dataset") from None
    nested = [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if str(kind).startswith("struct")]
    if nested:
        raise UserError(f"{path} holds images in its column {nested[0]!r}, not their paths: give hf:{path}", option="dataset")
    columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [(number, list(values)) for number, values in enumerate(zip(*columns, strict=True), 1)]
