"""Every figure that the scripts write, with matplotlib; nothing else imports it."""

import itertools
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from utils.core.images import LONGEST, middle
from utils.core.text import plural, printable, short_names
from utils.evaluation.metrics import METRICS
from utils.evaluation.style import BLUE, GREY, LIGHT_GREY, NAME, ORANGE, PALETTE, PURPLE, legible, plain, save

MOST_CLASSES, MOST_CONFUSED = 40, 25  # above the first, a confusion matrix shows the second: more labels cannot be read
TITLE, FILE = 90, 30  # characters of a title, and of the path of an image


def image_grid(images, mean, std, columns=8):
    """Normalised images (N, 3, S, S) as one uint8 array (3, H, W) of `columns` across, for TensorBoard."""
    pixels = np.clip(images.float().numpy() * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1)), 0, 1)
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    grid = np.zeros((3, rows * (height + 2), columns * (width + 2)), dtype=np.float32)
    for i, image in enumerate(pixels):
        y, x = i // columns * (height + 2), i % columns * (width + 2)
        grid[:, y : y + height, x : x + width] = image
    return (grid * 255).round().astype(np.uint8)


def training_curves(history, path, title):
    """Metrics that have a `curve`, and the learning rate, by epoch, from the "epochs" of a history.json; shares in per cent."""
    metrics = {name: metric for name, metric in METRICS.items() if metric.curve}
    panels = len(metrics) + 1
    figure, axes = plt.subplots(1, panels, figsize=(1 + 4 * panels, 3.6), layout="constrained")
    for axis, (name, metric) in zip(axes, metrics.items(), strict=False):
        for split, colour in (("train", GREY), ("val", BLUE)):
            points = [(r["epoch"], r[split][name] * (100 if metric.share else 1)) for r in history if name in r.get(split, ())]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, label=split, marker="o" if len(points) < 30 else None, ms=3)
        axis.set(title=f"{name}, %" if metric.share else name, xlabel="epoch")
        axis.legend(frameon=False)
    epochs = [record["epoch"] for record in history]
    axes[-1].plot(epochs, [r["lr"] for r in history], color=ORANGE, marker="o" if len(history) < 30 else None, ms=3)
    axes[-1].set(title="learning rate at the end of the epoch", xlabel="epoch")
    axes[-1].set_ylim(bottom=0)
    for axis in axes:
        plain(axis)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(legible(title, TITLE))
    save(figure, path)


def confusion_matrix(matrix, classes, path, title):
    """Rows are the true classes, columns the answers; shades are shares of the row, numbers are images.

    Of more than MOST_CLASSES classes the MOST_CONFUSED are drawn: those with the most wrong answers, given or got.
    """
    save(draw_confusion(matrix, classes, title), path)


def draw_confusion(matrix, classes, title):
    """What `confusion_matrix` writes, as a Figure."""
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    title, names = legible(title, TITLE), short_names([printable(name) for name in classes], NAME)
    if len(classes) > MOST_CLASSES:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CONFUSED])
        title += f"\nthe {MOST_CONFUSED} most confused of {plural(len(classes), 'class', 'classes')}"
        matrix, shares, names = matrix[np.ix_(shown, shown)], shares[np.ix_(shown, shown)], [names[i] for i in shown]
    names = [legible(name) for name in names]
    side = min(max(4.0, 0.45 * len(names) + 2), 20)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    image = axis.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, fraction=0.046, label="share of the true class, %")
    axis.set(title=title, xlabel="answer", ylabel="true class")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(matrix) if len(names) <= 30 else ():
        if value:
            light = shares[row, column] > 0.5
            size = 8 if value < 1000 else 6
            axis.text(column, row, value, ha="center", va="center", fontsize=size, color="white" if light else "black")
    return figure


def mistakes(items, path, title):
    """Images with what they are and what they were taken for: items of (Pillow image, true, answer, probability, file)."""
    save(draw_mistakes(items, title), path)


def draw_mistakes(items, title):
    """What `mistakes` writes, as a Figure."""
    columns = min(6, max(1, len(items)))
    rows = max(1, -(-len(items) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, true, answer, probability, file) in zip(axes.flat, items, strict=False):
        axis.imshow(middle(image, LONGEST))
        axis.set_title(f"{legible(answer, 20)} ({probability:.2f})\nis {legible(true, 24)}", fontsize=9)
        below = {"transform": axis.transAxes, "ha": "center", "va": "top", "fontsize": 6, "color": GREY}
        axis.text(0.5, -0.03, legible("/".join(pathlib.PurePath(file).parts[-2:]), FILE), **below)
    figure.suptitle(legible(title if items else f"{title}: none", TITLE))
    return figure


LAYER_COLOURS = {"convolution": BLUE, "linear": ORANGE, "attention": PURPLE, "normalisation": GREY, "other": LIGHT_GREY}


def layer_costs(layers, path, title):
    """MACs and parameters of every layer that has any, in the order of execution, and the share of the whole reached by then.

    `layers` are dicts with "module", "kind" (a key of LAYER_COLOURS), "macs" and "parameters".
    """
    layers = [layer for layer in layers if layer["macs"] or layer["parameters"]]
    figure, axes = plt.subplots(2, 1, figsize=(13, 7), sharex=True, layout="constrained")
    places = np.arange(len(layers))
    for axis, key, name in zip(axes, ("macs", "parameters"), ("MACs", "parameters"), strict=True):
        values = np.array([layer[key] for layer in layers], dtype=float)
        unit, factor = next(((u, f) for u, f in (("M", 1e6), ("k", 1e3)) if values.max() >= f), ("", 1.0))
        for kind, colour in LAYER_COLOURS.items():
            own = np.array([layer["kind"] == kind for layer in layers])
            if values[own].any():
                axis.bar(places[own], values[own] / factor, color=colour, width=0.9, label=kind)
        axis.set_ylabel(f"{name} of the layer ({unit})" if unit else f"{name} of the layer")
        axis.spines["top"].set_visible(False)
        axis.legend(frameon=False, loc="upper center", ncols=5)
        axis.set_ylim(top=axis.get_ylim()[1] * 1.12)  # room for the legend
        share = axis.twinx()
        share.step(places, 100 * values.cumsum() / max(values.sum(), 1), where="mid", color="black", lw=1)
        share.set(ylim=(0, 112), ylabel="share of the whole up to here (%)", yticks=range(0, 101, 25))
        share.spines["top"].set_visible(False)
    ticks, names = _blocks([layer["module"] for layer in layers])
    axes[1].set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes[1].set_xlim(-0.7, len(layers) - 0.3)
    figure.suptitle(legible(title, TITLE))
    save(figure, path)


def _blocks(modules, most=45):
    """Labels for the axis: every layer if they are few, else the beginnings of blocks, as fine as they fit."""
    for depth in range(max(name.count(".") for name in modules) + 1, 0, -1):
        blocks = [".".join(name.split(".")[:depth]) for name in modules]
        starts = [i for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
        if len(starts) <= most or depth == 1:
            break
    kept = starts[:1]
    for start in starts[1:]:
        if start - kept[-1] >= len(modules) / 60:  # closer labels would lie on each other
            kept.append(start)
    return kept, [blocks[i] for i in kept]


def benchmark(rows, path, title):
    """Size, accuracy, latency, throughput and cold start of the files made from one checkpoint, a bar a file.

    `rows` are the dicts that benchmark.py measures.
    """
    single = [row["latency"][0] for row in rows]
    median = np.array([latency["median_ms"] for latency in single])
    spread = np.abs([[latency["low_ms"] for latency in single], [latency["high_ms"] for latency in single]] - median)
    panels = [
        ("size, MB", np.array([row["bytes"] / 1e6 for row in rows]), None),
        ("latency at batch 1, ms", median, spread),
        ("images/s at the best batch", np.array([row["images/s"] for row in rows]), None),
        ("cold start, s", np.array([row["cold start s"] for row in rows]), None),
    ]
    if all("Acc@1" in row for row in rows):
        scores = np.array([100 * row["Acc@1"] for row in rows])
        ends = 100 * np.array([row["Acc@1 95 % interval"] for row in rows]).T
        panels.insert(1, ("Acc@1, % (95 % interval)", scores, np.abs(ends - scores)))
    size = (3.4 * len(panels), 0.42 * len(rows) + 1.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    for axis, (name, values, errors) in zip(axes, panels, strict=True):
        colours = [BLUE if row["name"].endswith("fp32") else ORANGE for row in rows]
        if name.startswith("Acc"):  # bars from 0 would hide every difference
            axis.errorbar(values, range(len(rows)), xerr=errors, fmt="none", ecolor=GREY, capsize=3)
            axis.scatter(values, range(len(rows)), c=colours, zorder=3)
        else:
            axis.barh(range(len(rows)), values, xerr=errors, color=colours, error_kw={"ecolor": GREY, "capsize": 2})
            axis.set_xlim(0, 1.3 * values.max())  # a whisker of a disturbed run would shrink all the bars to nothing
        axis.set(title=name)
        axis.title.set_size(10)
        plain(axis, "x")
    meanings = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (BLUE, ORANGE)]
    figure.legend(meanings, ["32-bit weights", "fewer bits"], loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes[0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0].invert_yaxis()
    figure.suptitle(legible(title, TITLE))
    save(figure, path)


def receptive_field(pixels, box, heat, path, titles):
    """The field of one unit as a box on an image, and beside it the heat of the pixels that the unit really answers to.

    `pixels` is uint8 (S, S, 3); `box` is (top, left, bottom, right) in pixels, inclusive, clipped to nothing: what lies
    outside of the image is padding; `heat` is (S, S); `titles` name the two panels and the whole.
    """
    top, left, bottom, right = box
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
    axes[0].imshow(pixels)
    shown = axes[1].imshow(np.sqrt(heat / heat.max()), cmap="inferno", vmin=0, vmax=1)  # the root shows the faint rim
    bar = figure.colorbar(shown, ax=axes[1], fraction=0.046, label="heat, share of the greatest")
    bar.set_ticks(np.sqrt([0, 0.01, 0.1, 0.25, 0.5, 1]), labels=["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    side = len(pixels)
    for axis, title in zip(axes, titles, strict=False):
        axis.add_patch(
            plt.Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, color=ORANGE, lw=2)
        )
        rim = 0.5 + 0.02 * side
        axis.set_xlim(min(left, 0) - rim, max(right, side - 1) + rim)
        axis.set_ylim(max(bottom, side - 1) + rim, min(top, 0) - rim)
        axis.set_facecolor("#dddddd")
        axis.set_title(title, fontsize=10)
    figure.suptitle(titles[2])
    save(figure, path)


def scaling(rows, path, title):
    """Time per image and pixel, median and extremes, against the image size, a line for each batch and thread count."""
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    lines = sorted({(row["threads"], row["batch"]) for row in rows})
    colours = dict(zip(sorted({batch for _, batch in lines}), itertools.cycle(PALETTE), strict=False))
    dashes = dict(zip(sorted({threads for threads, _ in lines}), itertools.cycle(("-", "--", ":", "-.")), strict=False))
    for threads, batch in lines:
        mine = [row for row in rows if (row["threads"], row["batch"]) == (threads, batch)]
        label = f"{threads} thread{'s' * (threads != 1)}, batch {batch}"
        median, least, most = (np.array([r["ns per pixel"][key] for r in mine]) for key in ("median", "min", "max"))
        errors = [median - least, most - median]
        look = {"color": colours[batch], "ls": dashes[threads], "marker": "os^D"[list(dashes).index(threads) % 4], "ms": 4}
        axis.errorbar([r["image_size"] for r in mine], median, errors, capsize=2, elinewidth=1, label=label, **look)
    axis.set(title=title, xlabel="image size, px", ylabel="training time, ns per pixel", ylim=(0, None))
    plain(axis)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)  # beside the lines, which end anywhere
    save(figure, path)
