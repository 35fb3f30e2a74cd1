"""What the tables of figures share: where the figures stand, and how a cell is written."""

import json
import pathlib

from utils.core.text import plural

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
    """A machine in words, with the widest instruction set that it has."""
    widest = f" with {machine['cpu_features'][-1]}" if machine.get("cpu_features") else ""
    size = f"{plural(machine['cores'], 'core')}, {plural(machine['threads'], 'thread')}"
    return f"{machine['cpu']}{widest}, {size}, PyTorch {machine['torch'].split('+')[0]}"


def measured(command, found):
    """By which command, when and on what `found` was measured: it has "date" and "machine", or is a dict of such by name."""
    return f"By `{command}`. {origins({'': found} if 'date' in found else found)}"


def origins(cases):
    """When and on what each of {name: {"date", "machine", ...}} was measured, in a sentence for each such pair."""
    names = {}
    for name, case in cases.items():
        names.setdefault(f"on {case['date']} on {machine(case['machine'])}", []).append(name)
    if len(names) == 1:
        return f"Measured {next(iter(names))}."
    return "Measured: " + "; ".join(f"{', '.join(group)} {origin}" for origin, group in names.items()) + "."
