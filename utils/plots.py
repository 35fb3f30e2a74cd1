"""Every picture that the scripts write, with matplotlib; nothing else imports it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from utils.report import replacing

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8a8a8a"


def save(figure, path):
    """Write a figure, atomically, and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


def image_grid(images, mean, std, columns=8):
    """Normalised images (N, 3, S, S) as one uint8 array (3, H, W) of `columns` across, for TensorBoard."""
    pixels = (images.float() * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))).clamp(0, 1).numpy()
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    grid = np.zeros((3, rows * (height + 2), columns * (width + 2)), dtype=np.float32)
    for i, image in enumerate(pixels):
        y, x = i // columns * (height + 2), i % columns * (width + 2)
        grid[:, y : y + height, x : x + width] = image
    return (grid * 255).round().astype(np.uint8)


def training_curves(history, path, title):
    """Loss, accuracy and learning rate by epoch, from the history of a run."""
    epochs = [record["epoch"] for record in history]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for axis, name in zip(axes, ("loss", "Acc@1"), strict=False):
        for split, colour in (("train", GREY), ("val", BLUE)):
            points = [(r["epoch"], r[split][name]) for r in history if split in r]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, label=split, marker="o" if len(points) < 30 else None, ms=3)
        axis.set(title=name, xlabel="epoch")
        axis.legend(frameon=False)
    axes[2].plot(epochs, [record["lr"] for record in history], color=ORANGE)
    axes[2].set(title="learning rate at the end of the epoch", xlabel="epoch", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    save(figure, path)


def confusion_matrix(matrix, classes, path, title):
    """Rows are the true classes, columns the answers; shades are shares of the row, numbers are images."""
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.55 * len(classes) + 2), 30)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, fraction=0.046, label="share of the true class")
    axis.set(title=title, xlabel="answer", ylabel="true class")
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(classes)), classes)
    if len(classes) <= 30:
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                axis.text(
                    column,
                    row,
                    value,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if shares[row, column] > 0.5 else "black",
                )
    save(figure, path)


def mistakes(items, path, title):
    """Pictures with what they are and what they were taken for: items of (Pillow image, true, answer, probability)."""
    columns = min(6, max(1, len(items)))
    rows = max(1, -(-len(items) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, true, answer, probability) in zip(axes.flat, items, strict=False):
        axis.imshow(image)
        axis.set_title(f"{answer} ({probability:.2f})\nis {true}", fontsize=9)
    figure.suptitle(title if items else f"{title}: none")
    save(figure, path)
