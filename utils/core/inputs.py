"""What a command line names as an input or an output: whether it is there, or can be written, asked while the flags are parsed,
before torch is imported.
"""

import itertools
import os
import pathlib

from utils.core.registry import most_alike

MADE_BY = {  # suffix of a model file -> what makes one
    ".pth": "train.py makes such files",
    ".onnx": "export.py makes such files from a checkpoint, and quantize.py those with int8",
    **dict.fromkeys((".pt", ".pt2", ".safetensors"), "export.py makes such files from a checkpoint"),
}
MOST_NAMES = 2000  # of a folder that are compared with a name


def no_file(path):
    """Check of a flag: what is wrong with a path that should be that of a file, or None."""
    if not os.path.isdir(path):
        return nothing_there(path)
    models = sorted(name for name in _names_in(path) if os.path.splitext(name)[1].lower() in MADE_BY)
    return f"is a folder; name the file in it{f', such as {os.path.join(path, models[0])}' if models else ''}"


def unless(word, check):
    """The same check of a path, which also passes a word that is none."""
    return lambda path: None if path == word else check(path)


def no_folder(path):
    """Check of a flag: what is wrong with a path that should be that of a folder, or None."""
    return None if os.path.isdir(path) else nothing_there(path) or "is not a folder"


def no_place(path):
    """Check of a flag: what keeps a file from being written at a path, or None. Nothing is made."""
    if path == "-":
        return "stands for no output here; name a file"
    return "is a folder; name a file" if os.path.isdir(path) else _no_way_to(path)


def no_place_for_files(path):
    """The same check of a folder that files are to be written into."""
    if os.path.exists(path) and not os.path.isdir(path):
        return "is a file; name a folder"
    return _no_way_to(os.path.join(path, "file"))


def _no_way_to(path):
    above = pathlib.Path(os.path.realpath(path)).parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        return f"cannot be written: {above} is no folder"
    return None if os.access(above, os.W_OK) else f"cannot be written: {above} does not let you"


def nothing_there(path):
    """Check of a flag: that there is neither a file nor a folder of this name, or None."""
    return None if os.path.exists(path) else absent(path)


def absent(path):
    """Words that follow a path at which there is nothing: what could be meant, and what makes such a file."""
    maker, near = MADE_BY.get(os.path.splitext(path)[1].lower()), nearest(path)
    if maker and near and not near.is_dir() and near.suffix.lower() not in MADE_BY:
        near = None  # such as the description beside a model file that is not in a clone
    return f"does not exist{perhaps(near)}" + (f"; {maker}" if maker else "")


def perhaps(near):
    """` (did you mean photos?)`, or nothing for None."""
    return f" (did you mean {near}?)" if near else ""


def nearest(path):
    """The path that there is and whose parts are spelled like those of `path`, or None.

    In a folder that leads to a file called like the wanted one, the name of that folder may be quite another.
    """
    found, parts = pathlib.Path(), pathlib.Path(path).parts
    for number, part in enumerate(parts):
        if os.path.lexists(found / part):
            found /= part
            continue
        names, rest = _names_in(found), parts[number + 1 :]
        leading = [name for name in names if rest and os.path.exists(found.joinpath(name, *rest))]
        near = most_alike(part, leading or names, cutoff=0 if leading else 0.6)
        if not near:
            return None
        found /= near[0]
    return found


def _names_in(folder):
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, MOST_NAMES) if not entry.name.startswith(".")]
    except OSError:
        return []
