"""Counts with their noun, quantities with metric prefixes, and text tables."""


def plural(count, noun, many=None):
    """A count with its noun: `plural(1, "file")` is `1 file`, `plural(2000, "class", "classes")` is `2,000 classes`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


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
