"""The course of a training run as line charts: what history.json holds, laid out for SVG."""

import json
import math
from dataclasses import dataclass

import numpy as np

from utils.core.errors import UserError
from utils.evaluation.metrics import METRICS

WIDTH, HEIGHT = 360, 220  # of a chart, in units of its SVG
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 30  # margins
LARGEST = 1e30  # a finite number beyond it is no figure of a run, and the scale of a chart cannot hold it
POINTS = 40  # up to so many epochs each value is a dot too


@dataclass(frozen=True)
class Curves:
    """`charts`; `epochs`: how many were trained, `last`: the number of the last one; `chosen`: that of the epoch whose weights
    these are, `is_best`: whether it was the best one.

    `plain`: (first, last) epoch without augmentation, or None.
    """

    charts: list
    epochs: int
    last: int
    chosen: int | None
    is_best: bool
    plain: tuple | None
    seconds: float | None  # of the whole run

    @property
    def held_out(self):
        """Whether the run was evaluated on held-out images."""
        return any(line.name == "val" for chart in self.charts for line in chart.lines)


@dataclass(frozen=True)
class Line:
    name: str  # "train", "val" or "learning rate"
    points: list  # (x, y) in units of the SVG

    @property
    def text(self):
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """One metric by epoch. Ticks are (place, label); `chosen` and `plain` are places along x."""

    title: str
    lines: list
    x_ticks: list
    y_ticks: list
    chosen: float | None
    plain: tuple | None
    dots: bool


def read_history(path):
    """The dict in a history.json, or None where there is no such file. Raises UserError for one that is none."""
    try:
        with open(path, encoding="utf-8") as file:
            history = json.load(file)
        epochs = [record["epoch"] for record in history["epochs"]]
        values = [record["lr"] for record in history["epochs"]]
        values += [v for r in history["epochs"] for s in ("train", "val") for v in r.get(s, {}).values()]
        sound = isinstance(history["flags"], dict) and epochs == sorted(set(epochs))
        sound = sound and all(isinstance(v, int) for v in epochs)
        values += [r.get("seconds", 0) for r in history["epochs"]] + [(history.get("seconds") or {}).get("total", 0), *epochs]
        sound = sound and all(isinstance(v, int | float) and not LARGEST < abs(v) < math.inf for v in values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is not the history of a training run")
    return history


def curves_of(history, plain_from=None, chosen=None):
    """Curves of a history that `read_history` gave; `plain_from` is the first epoch, counted from 0, without augmentation.

    `chosen` is the epoch of the weights, where that is known and may not be the best one. None where no epoch was finished.
    """
    records = history["epochs"]
    if not records:
        return None
    epochs = [record["epoch"] for record in records]
    best = history.get("best") or {}
    chosen = chosen or best.get("epoch")
    chosen = chosen if chosen in epochs else None
    plain = None if plain_from is None or plain_from >= epochs[-1] else (max(plain_from + 1, epochs[0]), epochs[-1])
    charts = []
    for name in [name for name, metric in METRICS.items() if metric.curve]:
        factor, title = (100, f"{name}, %") if METRICS[name].share else (1, name)
        lines = {s: [(r["epoch"], factor * r[s][name]) for r in records if name in r.get(s, {})] for s in ("train", "val")}
        charts.append(_chart(title, lines, epochs, chosen, plain))
    rates = {"learning rate": [(record["epoch"], record["lr"]) for record in records]}
    charts.append(_chart("learning rate at the end of the epoch", rates, epochs, chosen, plain))
    # Older versions wrote as the total that of the last session of a run that was resumed.
    seconds = max((history.get("seconds") or {}).get("total", 0), sum(record.get("seconds", 0) for record in records))
    return Curves(
        [chart for chart in charts if chart], len(records), epochs[-1], chosen, chosen == best.get("epoch"), plain, seconds
    )


def _chart(title, lines, epochs, chosen, plain):
    lines = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()}
    values = [y for points in lines.values() for _, y in points]
    if not values:
        return None
    ticks = nice_ticks(min(values), max(values))
    across = _scale(epochs[0] - 0.5, epochs[-1] + 0.5, LEFT, WIDTH - RIGHT)
    up = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    drawn = [Line(name, [(across(x), up(y)) for x, y in points]) for name, points in lines.items() if points]
    marks = sorted({epochs[round(i)] for i in np.linspace(0, len(epochs) - 1, min(6, len(epochs)))})
    return Chart(
        title,
        drawn,
        [(across(epoch), str(epoch)) for epoch in marks],
        [(up(value), f"{value:.6g}") for value in ticks],
        chosen and across(chosen),
        plain and (across(plain[0] - 0.5), across(plain[1] + 0.5)),
        len(epochs) <= POINTS,
    )


def _scale(low, high, start, end):
    """The function that takes `low` to `start` and `high` to `end`."""
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def nice_ticks(low, high, most=6):
    """Round numbers, evenly spaced, at least two and at most about `most`, from at most `low` to at least `high`."""
    flat = max(abs(low), abs(high), 1e-3)
    span = high - low if high - low > 1e-6 * flat else flat
    rough = span / (most - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
