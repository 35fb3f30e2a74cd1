"""The figures of docs/receptive_field.md.

    python docs/make_receptive_field_figures.py

Writes docs/images/rf_growth.png, rf_chain.png, rf_training.png and rf_photo.png. For the last two, small networks are trained
on digits and on the sample photographs first (a minute or two on two cores). Every number comes from the functions that the
scripts use.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch
from torch import nn

from docs.make_photos import make_photos
from docs.make_readme_figure import readme_commands
from models.build import build_model
from utils.core.card import ModelCard
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches
from utils.evaluation import plots
from utils.evaluation.plots import plt
from utils.evaluation.style import BLUE, GREEN, GREY, ORANGE
from utils.receptive_field.analytic import receptive_fields
from utils.receptive_field.effective import effective_field, effective_size

CHAINS = {  # name: (kernel, stride, dilation) of each layer, a colour
    "3×3": ([(3, 1, 1)] * 8, GREY),
    "5×5": ([(5, 1, 1)] * 8, "black"),
    "3×3, every second with stride 2": ([(3, 1, 1), (3, 2, 1)] * 4, BLUE),
    "3×3, then 2×2 max-pool": ([(3, 1, 1), (2, 2, 1)] * 4, GREEN),
    "3×3, dilation 1, 2, 4, …": ([(3, 1, 2**i) for i in range(8)], ORANGE),
}


def sizes(chain):
    """Field in pixels after each layer of a chain, as the graph analysis finds it."""
    layers = [nn.Conv2d(3, 3, k, s, padding=d * (k // 2), dilation=d) for k, s, d in chain]
    return [1] + [field.size[0] for field in receptive_fields(nn.Sequential(*layers), 512).values()]


def growth(path):
    """How depth, kernel, stride, pooling and dilation make the field grow."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, scale in zip(axes, ("linear", "log"), strict=True):
        for name, (chain, colour) in CHAINS.items():
            axis.plot(sizes(chain), color=colour, marker="o", ms=3, label=name)
        axis.set(xlabel="layers", ylabel="receptive field, px", yscale=scale)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 70)
    axes[1].legend(frameon=False, fontsize=9)
    plots.save(figure, path)


def chain(path):
    """Three layers in one dimension: who sees whom."""
    layers = [("convolution, kernel 3", 3, 1, 1), ("max-pool, kernel 2, stride 2", 2, 2, 0), ("convolution, kernel 3", 3, 1, 1)]
    units, rows = 12, [12]
    for _, kernel, stride, padding in layers:
        rows.append((rows[-1] + 2 * padding - kernel) // stride + 1)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, padding=1))
    spans = [field.height for field in receptive_fields(network, units).values()]
    chosen, jumps, centres = 1, [1] + [span.jump for span in spans], [0.0] + [span.centre for span in spans]
    place = lambda row, unit: centres[row] + unit * jumps[row]  # noqa: E731  centre of the unit's field, in pixels
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    seen = {chosen}
    for row in range(len(layers), -1, -1):
        if row < len(layers):
            _, kernel, stride, padding = layers[row]
            below = set()
            for unit in seen:
                for tap in range(unit * stride - padding, unit * stride - padding + kernel):
                    axis.plot([place(row + 1, unit), place(row, tap)], [row + 1, row], color=ORANGE, lw=0.9, zorder=1)
                    below.add(tap)
            seen = below
        for unit in sorted(set(range(rows[row])) | seen):
            real = 0 <= unit < rows[row]
            face = ORANGE if unit in seen and real else "white"
            axis.scatter(
                place(row, unit),
                row,
                s=110,
                facecolor=face,
                edgecolor=BLUE if real else ORANGE,
                zorder=2,
                linestyle="-" if real else ":",
            )
    for row, span in enumerate(spans):
        text = f"{layers[row][0]}: size {span.size}, jump {span.jump}, start {span.start}"
        axis.text(units + 0.2, row + 1, text, va="center", fontsize=9)
    low, high = spans[-1].of_unit(chosen)
    axis.annotate("", (low - 0.5, -0.45), (high + 0.5, -0.45), arrowprops={"arrowstyle": "<->", "color": ORANGE})
    axis.text((low + high) / 2, -0.85, f"unit {chosen} sees pixels {low} to {high}", ha="center", color=ORANGE)
    axis.text(units + 0.2, 0, f"pixels 0 to {units - 1}; dotted: padding", va="center", fontsize=9)
    axis.set(xlim=(-1.5, units + 9), ylim=(-1.1, len(layers) + 0.4))
    axis.axis("off")
    plots.save(figure, path)


def training(path, image_size=64, epochs=6):
    """The effective field of layer2 of resnet18 before and after training on digits."""
    torch.manual_seed(0)
    digits = open_dataset("digits")
    card = ModelCard("resnet18", digits.classes, image_size)
    network = build_model("resnet18", 10, image_size)
    images = torch.cat([batch for batch, _ in eval_batches(digits.test.subset(range(0, 320, 5)), card, 64)])
    heats = [effective_field(network, "layer2", images)[:2]]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(digits.train)).numpy()
        for batch, labels in eval_batches(digits.train.subset(order), card, 64):
            loss = nn.functional.cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    heats.append(effective_field(network, "layer2", images)[:2])
    field = receptive_fields(network, image_size)["layer2"]
    (top, bottom), (left, right) = (
        span.of_unit(place) for span, place in zip((field.height, field.width), heats[0][1], strict=True)
    )
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axis, (heat, _), when in zip(axes, heats, ("random weights", f"after {epochs} epochs on digits"), strict=True):
        axis.imshow((heat / heat.max()).sqrt(), cmap="inferno")
        axis.add_patch(
            plt.Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, color=ORANGE, lw=2)
        )
        axis.set(xlim=(min(left, 0) - 2, max(right, image_size) + 2), ylim=(max(bottom, image_size) + 2, min(top, 0) - 2))
        axis.set_facecolor("#dddddd")
        axis.set_title(f"{when}: about {effective_size(heat):.0f} px", fontsize=10)
    figure.suptitle(f"resnet18, layer2: theoretical field {field.size[0]} px (box), effective field (heat)")
    plots.save(figure, path)
    return [effective_size(heat) for heat, _ in heats], loss.item()


def photograph(path):
    """The field of layer3 of the README's custom on a test photograph."""
    with tempfile.TemporaryDirectory() as name:
        make_photos(pathlib.Path(name, "photos"))
        train = next(command for command in readme_commands() if command[0] == "train.py")
        show = ["receptive_field.py", "-w", "weights/photos/custom/best_model.pth", "--image", "photos/test/temple/00.jpg"]
        for script, *flags in (train, show):
            subprocess.run([sys.executable, HERE.parent / script, *flags], cwd=name, check=True, stdout=subprocess.DEVNULL)
        (figure,) = pathlib.Path(name, "results", "receptive_field").glob("*.png")
        shutil.copy(figure, path)


if __name__ == "__main__":
    growth(HERE / "images" / "rf_growth.png")
    chain(HERE / "images" / "rf_chain.png")
    print({name: sizes(layers) for name, (layers, _) in CHAINS.items()})
    print(training(HERE / "images" / "rf_training.png"))
    photograph(HERE / "images" / "rf_photo.png")
