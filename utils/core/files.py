"""Where results go, and how files are written: completely or not at all."""

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
