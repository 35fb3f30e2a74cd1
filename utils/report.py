"""Where results go, how files are written so that none is ever half there, and how quantities are spelled."""

import json
import os
import pathlib
import tempfile
from contextlib import contextmanager

RESULTS = pathlib.Path("results")


@contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes its place, on failure it goes.

    The temporary name keeps the suffix of `path`, because some writers choose their format by it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(descriptor)
    try:
        yield pathlib.Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp's 0600 would hide results from the rest of the team
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Write `text` to `path` atomically and return the path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return pathlib.Path(path)


def write_json(path, value):
    """Write `value` to `path` as indented JSON, atomically, and return the path. Raises ValueError for NaN."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def si(value, unit="", digits=4):
    """A quantity with its metric prefix: `si(1819000000, "MAC")` is `1.819 GMAC`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}".rstrip()


def table(header, rows, align=None):
    """Rows of strings as an aligned text table: the first column to the left, the others to the right.

    `align` overrides this with one of `<` and `>` a column.
    """
    align = align or "<" + ">" * (len(header) - 1)
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("─" * w for w in widths), *lines[1:]])
