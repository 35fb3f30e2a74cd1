"""The one exception for what a user can cause, and the wrapper that turns it into a sentence and an exit status."""

import errno
import os
import signal
import sys

USER_ERROR, SOME_UNREADABLE, ACCURACY_LOST = 2, 3, 4  # exit statuses beyond 0 and Python's own 1
# Of an OSError: the place is closed to the user, full, or of another kind than its name says.
PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class UserError(Exception):
    """What went wrong, with which value or path, and what to do: one sentence.

    `option` is the name of the parameter whose value is at fault ("image_size"), where there is one. A script's flag has the
    same name, so that `run` can put it before the sentence; code that calls a package from elsewhere reads no flags.
    """

    def __init__(self, message, option=None):
        super().__init__(message)
        self.option = option


def run(main):
    """Run `main()` as a script: exit with its return value, or with a sentence and status 2 for a `UserError`.

    An interrupt exits 130 and SIGTERM 143, both after `main` has had its chance to save (`SIGTERM` is raised inside of it
    as `SystemExit(143)`). A place that is full or closed to the user is named, status 2. A closed pipe on standard output ends
    quietly. Every other exception keeps its traceback.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        flag = f"--{error.option}: " if error.option else ""
        print(f"error: {flag}{error}", file=sys.stderr)
        status = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        if error.errno not in PLACES:
            raise
        print(f"error: {error.filename or 'a file'} cannot be read or written ({error.strerror})", file=sys.stderr)
        status = USER_ERROR
    sys.exit(status)
