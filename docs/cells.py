"""What the tables of figures share: where the figures stand, and how a cell is written."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).parent.parent / "results"
WEIGHTS = RESULTS.parent / "weights"


def markdown(header, rows, align=None):
    """A Markdown table; `align` has `l` or `r` for each column. By default only the first column is on the left."""
    rules = {"l": "---", "r": "---:"}
    align = align or "l" + "r" * (len(header) - 1)
    lines = [header, [rules[side] for side in align], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def results(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def spread(values, digits):
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"


def machine(machine):
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    return f"{machine['cpu']}, {machine['cores']} cores, {threads}, PyTorch {machine['torch'].split('+')[0]}"
