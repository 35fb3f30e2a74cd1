"""Flags in text files: read with `@FILE` on a command line, and written so that a run can be repeated."""

import contextlib
import re

from utils.core.errors import UserError

RECORD = "args.txt"  # the flags of a run, in its folder


def flag_lines(path):
    """[(line number from 1, words)] of a file with one flag and its values a line, as a shell would split it.

    A # at the start of a word begins a comment; blank lines are passed over. Raises UserError for a file that cannot be read
    and, with the number of the line, for quotes that are not closed and for a line that names another such file.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:  # bytes that are no UTF-8, a null character in the name
        raise UserError(f"{path or '@'} cannot be read ({getattr(error, 'strerror', None) or 'not a text file'})") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            words = _words(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {str(error).lower()}") from None
        if words and words[0].startswith("@"):
            raise UserError(f"{path}, line {number}: {words[0]}: a file of flags cannot name another one")
        found += [(number, words)] if words else []
    return found


def _words(line):
    import shlex  # not above: few command lines name a file of flags

    for mark in re.finditer(r"(?<!\S)#", line):
        with contextlib.suppress(ValueError):  # a quote is open there: this # is no comment
            return shlex.split(line[: mark.start()])
    return shlex.split(line)


def flag_line(flag, value):
    """One line that gives `flag` (`--seed`) the `value` that its parser has for it; True is a flag without a value."""
    import shlex

    words = [] if value is True else list(map(str, value)) if isinstance(value, (list, tuple)) else [str(value)]
    if len(words) == 1 and words[0][:1] in ("-", "@"):  # what would be taken for a flag
        return f"{flag}={shlex.quote(words[0])}"
    return " ".join([flag, *map(shlex.quote, words)])
