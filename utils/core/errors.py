"""The one exception for what a user can cause, and the wrapper that turns it into a sentence and an exit status."""

import contextlib
import errno
import os
import signal
import sys

from utils.core.text import Harmless, printable

USER_ERROR, SOME_UNREADABLE, ACCURACY_LOST = 2, 3, 4  # exit statuses beyond 0 and Python's own 1
CLOSED_PIPE = 128 + signal.SIGPIPE  # as of a program that the signal ends
# Of an OSError: the place is closed to the user, full, of another kind than its name says, or its name leads nowhere.
PLACES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG),
)
OF_BARS = ("\r", "\x1b[A")  # what a progress bar steers the terminal with
NO_MEMORY = "there is not enough memory for this; give a smaller image size, batch size or model"
SIGNS = {  # what a RuntimeError of torch says -> what that means
    "DefaultCPUAllocator: can't allocate memory": NO_MEMORY,
    "CUDA out of memory": NO_MEMORY,
    "does not have a deterministic implementation": "an operator of this model has no deterministic algorithm on this device; "
    "train it on the CPU, or not deterministic",
    "DataLoader worker (pid": "a loader process has died, as the system ends one when memory is short; give fewer of them",
}

flags = {}  # parameter name -> the flag of the running script that sets it; its parser fills this in


class UserError(Exception):
    """What went wrong, with which value or path, and what to do: one sentence.

    `option` is the name of the parameter whose value is at fault ("image_size"), where there is one. Where the running
    script has a flag for it, `run` puts the flag before the sentence; code that calls a package from elsewhere reads none.
    `cure` is what else the user can do: words, the name of a parameter, and its value where it takes one. `run` ends the
    sentence with them where the script has that flag.
    """

    def __init__(self, message, option=None, cure=None):
        super().__init__(message)
        self.option, self.cure = option, cure


def run(main):
    """Run `main()` as a script: exit with its return value, or with a sentence and status 2 for what a user can cause.

    An interrupt exits 130 and SIGTERM 143, both after `main` has had its chance to save (`SIGTERM` is raised inside of it
    as `SystemExit(143)`). A closed pipe on standard output ends quietly. Every bug keeps its traceback. Characters that the
    terminal's encoding lacks are printed as escapes, and so are those that would steer it, whoever prints them.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # what stands in for a stream need not have an encoding
            stream.reconfigure(errors="backslashreplace")
    streams = contextlib.redirect_stdout(Harmless(sys.stdout)), contextlib.redirect_stderr(Harmless(sys.stderr, *OF_BARS))
    with streams[0], streams[1]:
        status = _status_of(main)
    sys.exit(status)


def _status_of(main):
    """The exit status after `main()`, with a sentence on standard error for what a user can cause."""
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"error: {printable(sentence)}", file=sys.stderr)
        return USER_ERROR
    return status


def explain(error):
    """What to tell the user of an exception; None for a bug."""
    if isinstance(error, UserError):
        words, name, *value = error.cure or ("", None)
        cure = f"; {' '.join([words, flags[name], *value])}" if name in flags else ""
        return (f"{flags[error.option]}: {error}" if error.option in flags else str(error)) + cure
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
        package = error.name.partition(".")[0]
        return f"the package {package} is missing: activate the environment (source .venv/bin/activate) or make it (make setup)"
    if isinstance(error, OSError) and error.errno in PLACES:
        return f"{error.filename or 'a file'} cannot be read or written ({error.strerror})"
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, RuntimeError):
        return next((sentence for sign, sentence in SIGNS.items() if sign in str(error)), None)
    return None


def _is_ours(module):
    return not module or module.partition(".")[0] in {"benchmarks", "models", "utils"} | sys.stdlib_module_names
