"""Text for the terminal: counts with their noun, metric prefixes, tables, and strangers' text made harmless."""

import collections
import io
import re
import textwrap
import unicodedata

SHORT = 16  # characters to which a cell is shortened at most
JOINERS = "\u200c\u200d"  # format characters that emoji and several scripts need, and that cannot deceive


def printable(text):
    """`text` on one line, without what would steer a terminal: `"a\\nb"` for an a, a line break and a b.

    Control characters, escape sequences, line breaks, bidirectional marks and bytes that are no text become escapes.
    """
    return "".join(escaped(c) if _steers(c) else c for c in str(text))


def _steers(character):
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS


def escaped(character):
    """A character in the letters of Python's escapes."""
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class Harmless:
    """A text stream through which nothing steers the terminal: all but line breaks, tabs and what is `kept` is `printable`."""

    def __init__(self, stream, *kept):
        self.unfiltered = stream
        self._parts = re.compile("|".join([*map(re.escape, kept), r"[\n\t]", r"[^\n\t\x1b\r]+", r"[\x1b\r]"]))
        self._kept = {*kept, "\n", "\t"}

    def write(self, text):
        return self.unfiltered.write(text if text.isascii() and text.isprintable() else self._parts.sub(self._shown, text))

    def _shown(self, match):
        return match[0] if match[0] in self._kept or match[0].isprintable() else printable(match[0])

    def __getattr__(self, name):
        return getattr(self.unfiltered, name)


def file_part(text, most=120):
    """`text` as one part of a file name: letters, digits, `_`, `.` and `-` stay, all others become `-`; never empty or hidden.

    `most` is in bytes, so that what is put before and after it still makes a name.
    """
    name = re.sub(r"[^\w.-]+", "-", str(text)).encode("utf-8", "replace")[:most].decode("utf-8", "ignore").strip("-.")
    return name or "unnamed"


def plural(count, noun, many=None):
    """A count with its noun: `plural(1, "file")` is `1 file`, `plural(2000, "class", "classes")` is `2,000 classes`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def shortened(text, most):
    """`text` with at most `most` characters: a longer one loses its middle, as in `a very lon…its end`."""
    end = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def short_names(names, most):
    """`names` with at most `most` characters each; their number, from 0, stands before those that would read alike."""
    short = [shortened(name, most) for name in names]
    times = collections.Counter(short)
    numbered = [f"{number} {name}" for number, name in enumerate(names)]
    return [name if times[name] == 1 else shortened(other, most) for name, other in zip(short, numbered, strict=True)]


def wrapped(text, width=None):
    """`text`, printable, in lines of `width` columns; words, such as paths, stay whole.

    By default the lines are as long as the terminal is wide, or 80 columns where there is none.
    """
    import shutil  # not above: with what it imports it takes milliseconds

    options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.wrap(printable(text), width or shutil.get_terminal_size((80, 24)).columns, **options))


def si(value, unit="", digits=4):
    """A quantity with its metric prefix: `si(1819000000, "MAC")` is `1.819 GMAC`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}".rstrip()


def table(header, rows, align=None, width=None):
    """Rows of strings as an aligned text table: the first column to the left, the others to the right.

    `align` overrides this with one of `<` and `>` a column. Cells are made `printable`. In a table of more than `width`
    columns the longest cells lose their middle, but keep SHORT characters; numbers, which stand to the right, stay whole.
    """
    align = align or "<" + ">" * (len(header) - 1)
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(header, *rows, strict=True)]
    texts = [number for number, side in enumerate(align) if side == "<"]
    while width and texts and sum(widths) + 2 * len(widths) - 2 > width:
        longest = max(texts, key=widths.__getitem__)
        if widths[longest] <= max(SHORT, len(header[longest])):
            break
        widths[longest] -= 1
    rows = [[shortened(cell, most) for cell, most in zip(row, widths, strict=True)] for row in rows]
    lines = ["  ".join(_padded(*cell) for cell in zip(row, align, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("─" * w for w in widths), *lines[1:]])


def columns(text):
    """How many columns of a terminal a text takes: Chinese, Japanese and Korean characters and emoji take two each."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text, align, width):
    return f"{text:{align}{width - columns(text) + len(text)}}"


def csv_text(header, rows):
    """Rows as CSV. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return "".join(f"{_csv_row(row)}\n" for row in [header, *rows])


def _csv_row(row):
    import csv  # not above: few runs write one

    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([_cell(value) for value in row])  # which also quotes a lone \r
    return text.getvalue().removesuffix("\r\n")


def _cell(value):
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file name can be made of any bytes
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
