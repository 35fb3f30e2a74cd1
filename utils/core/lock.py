"""One run at a time in a folder."""

import contextlib
import fcntl
import functools
import os

from utils.core.errors import UserError

_held = {}  # (device, inode) of a folder -> the descriptor that holds its lock


def hold(folder):
    """Keep the runs of other processes out of `folder` until `release` or the end of this process, however it ends.

    The lock is the operating system's, on the folder itself: it leaves no file and outlives no process. Returns None, or where
    the file system has no such locks a sentence that says so. Raises UserError where another process holds the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    if _identity(descriptor) in _held:
        os.close(descriptor)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise UserError(
                f"another run is at work in {folder}; wait for it, stop it, or save elsewhere", option="path_to_save"
            ) from None
        return f"{folder} lies on a file system without locks ({error.strerror}): see to it that no second run writes there"
    _let_go_in_children()
    _held[_identity(descriptor)] = descriptor
    return None


def release(folder):
    """Let other processes run in `folder` again."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY)
        held = _held.pop(_identity(descriptor), None)
        os.close(descriptor)
        if held is not None:
            os.close(held)


def _identity(descriptor):
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@functools.cache
def _let_go_in_children():
    os.register_at_fork(after_in_child=_let_go)


def _let_go():
    """In a forked process, such as a loader worker: it must not hold the folder when the run itself has died."""
    while _held:
        os.close(_held.popitem()[1])
