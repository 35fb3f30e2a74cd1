"""Where results go, and how files are written: completely or not at all, and never over an input."""

import contextlib
import fcntl
import json
import os
import pathlib
import stat
import threading

from utils.core.errors import UserError
from utils.core.text import file_part

RESULTS = pathlib.Path("results")
TEMPORARY = ".tmp-"  # with this the names of unfinished files begin
_asking = threading.Lock()
_inputs = {}  # of every file that this process must not write to: (device, inode) -> its path when it was read


class WriteError(UserError):
    """A file cannot be written: its name and the reason. The file that was there before is untouched."""

    def __init__(self, path, reason):
        super().__init__(f"{path} cannot be written ({reason})")
        self.path, self.reason = path, reason

    def __reduce__(self):
        return WriteError, (self.path, self.reason)  # one process sends it to the others


def protect(*paths):
    """Remember files that a run reads, so that no output replaces one of them; what does not exist is left out."""
    for path in paths:
        with contextlib.suppress(OSError):
            _inputs[_identity(os.stat(path))] = os.path.abspath(path)


def check_places(*paths):
    """Before a long work: raise WriteError for the first of `paths`, None left out, of which it is known that it cannot be
    written: an input (see `protect`), no regular file, or below what is no folder. Nothing is made.
    """
    for path in filter(None, paths):
        try:
            _refuse(path, pathlib.Path(os.path.realpath(path)))
        except OSError as error:
            raise WriteError(path, error.strerror or error) from None


@contextlib.contextmanager
def replacing(path, keep=None):
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes its place, on failure it goes.

    A link is followed: its target is replaced. The temporary name is short and keeps the suffix of `path`, because some
    writers choose their format by it. What earlier runs left unfinished in the folder is removed. With `keep`, a path in the
    same folder, the file that is replaced stays there. Raises WriteError, naming `path`, for an input (see `protect`), for
    what is no regular file, such as a device, and for every fault of the disk.
    """
    target = pathlib.Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse(path, target)
        _remove_leftovers(target.parent)
        temporary, descriptor = _create(target)
    except OSError as error:
        raise WriteError(path, error.strerror or error) from None
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # readable for the rest of the team
        _flush(temporary)
        _refuse(path, target)
        if keep and target.exists():
            _keep(target, pathlib.Path(keep))
        os.replace(temporary, target)
        _flush(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        about_another = getattr(error, "filename", None) not in (None, str(temporary), str(target))
        if not isinstance(error, OSError) or about_another:
            raise
        raise WriteError(path, error.strerror or error) from None
    finally:
        os.close(descriptor)


def write_bytes(path, content, keep=None):
    """Write `content` to `path` atomically and return the path; what was there before stays at `keep`, if given."""
    with replacing(path, keep) as temporary:
        temporary.write_bytes(content)
    return pathlib.Path(path)


def write_text(path, text):
    """Write `text` to `path` atomically, as UTF-8, and return the path; bytes of file names that are no text as escapes."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))  # JSON reads these escapes back


def write_json(path, value):
    """Write `value` to `path` as indented JSON, atomically, and return the path. Raises ValueError for NaN.

    A list of numbers stands on one line, so that a confusion matrix has a line for each of its rows.
    """
    return write_text(path, _json(value) + "\n")


def _json(value, indent="\n"):
    """`value` as JSON text of which each line but the first begins with `indent`."""
    inner = f"{indent}  "
    if isinstance(value, dict) and value:
        keys = (json.dumps({key: 0}, ensure_ascii=False)[1:-4] for key in value)  # which spells them as JSON wants them
        items = (f"{key}: {_json(inside, inner)}" for key, inside in zip(keys, value.values(), strict=True))
        return f"{{{inner}{f',{inner}'.join(items)}{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(inside, str | dict | list | tuple) for inside in value):
        return f"[{inner}{f',{inner}'.join(_json(inside, inner) for inside in value)}{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)  # a list of numbers, at the speed of C


def name_that_fits(stem, suffix):
    """A file name of at most 255 bytes, what file systems take: `stem` loses its end where it must."""
    room = 255 - len(os.fsencode(suffix))
    return (stem if len(os.fsencode(stem)) <= room else os.fsencode(stem)[:room].decode("utf-8", "ignore")) + suffix


def result_name(card, weights, *facts):
    """File name of results about a model file: its architecture, the name of its run, `facts`, and where it is from."""
    trained_on = pathlib.Path(card.training.get("dataset", "")).name
    return "_".join(
        filter(None, (card.file_name, card.training.get("name"), *facts, origin(weights, card.file_name, trained_on)))
    )


def place_name(place, name):
    """Folder name of results about a data set called `name` that was given as `place`: two folders of one name differ."""
    return (origin(place) if os.path.exists(place) else "") or file_part(name)


def benchmark_file(card, weights, data, name, *facts):
    """Where benchmark.py writes what it measured of a checkpoint on the data set `name`, given as `data`; None for none."""
    place = place_name(data, name) if name else "no_dataset"
    return RESULTS / "benchmark" / f"{place}_{result_name(card, weights, *facts)}.json"


def origin(path, model=None, dataset=None):
    """What of the path of a file or folder tells it from others, as a part of a file name; empty where nothing does.

    Left out are the folder we are in, what every run has in its path, and what is called as the model or the data set is.
    """
    path = pathlib.Path(path)
    inside = pathlib.Path(os.path.relpath(path))
    parts = list(inside.parts if ".." not in inside.parts else path.resolve().parts[1:])
    own = [path.stem] if parts and not path.is_dir() else []
    folders = parts[: len(parts) - len(own)]
    usual = {"weights", "converted_models", "best_model", dataset}
    kept = [part for part in folders if not (model and f"{part}_".startswith(f"{model}_"))]
    kept += [stem for stem in own if not (model and stem.startswith(f"{model}_"))]  # one called as the model is another file
    kept = [part for part in kept if part not in usual]
    return "-".join(map(file_part, kept[-2:]))


def _identity(status):
    return status.st_dev, status.st_ino


def _is_input(target, status):
    """Whether a file is an input under any of its names. The number of a file that is gone is soon that of another one."""
    read = _inputs.get(_identity(status))
    return read is not None and os.path.exists(read) and os.path.samefile(read, target)


def _refuse(path, target):
    try:
        status = target.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise WriteError(path, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if _is_input(target, status):
        raise WriteError(path, "it is an input of this run; name another file")


def _keep(target, place):
    """Give the file `target` a second name; where the file system has no links, the only one, until it is replaced."""
    place.unlink(missing_ok=True)
    try:
        os.link(target, place)
    except OSError:
        os.replace(target, place)


def _create(target):
    """`(path, descriptor)` of a new file beside `target`; its lock is held until the descriptor is closed."""
    while True:
        temporary = target.with_name(f"{TEMPORARY}{os.urandom(6).hex()}{target.suffix[:16]}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # not removed by another run before it was locked
            return temporary, descriptor
        os.close(descriptor)


def _remove_leftovers(folder):
    for leftover in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError), open(leftover, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where the run that writes it is alive
            leftover.unlink()


def _flush(path):
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir():  # some file systems cannot flush a folder
            raise error
    finally:
        os.close(descriptor)


def _umask():
    with _asking:  # in between, the mask of the whole process is another
        mask = os.umask(0)
        os.umask(mask)
        return mask
