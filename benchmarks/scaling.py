"""How training throughput scales with image size, batch and threads: the cost must grow no faster than the work.

  python benchmarks/scaling.py
  python benchmarks/scaling.py -m resnet18 --sizes 32 64 128 --batches 16 64

Images a second of the steps of train.py's own Trainer on the digits, augmentation included, and the time per image and pixel.
The whole grid is measured several times, as a slow size could be one at which the machine was busy; growth compares each cell
with the next larger size or batch within a round. Writes results/benchmarks/scaling_<model>.json and .png.
"""

import contextlib
import io
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import torch

from benchmarks.pairs import ratios, save, spread
from benchmarks.train_throughput import full_steps
from models.registry import list_models
from utils.core import cli
from utils.core.card import architecture
from utils.core.errors import run
from utils.core.files import RESULTS
from utils.core.text import plural, table
from utils.evaluation import plots
from utils.training.build import build_trainer
from utils.training.options import TrainOptions


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("-m", "--model", type=architecture, default="custom", help=f"one of {', '.join(list_models())}")
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 224], check=cli.at_least(8), help="image sizes, px")
    p.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256], check=cli.at_least(2), help="batch sizes")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], check=cli.at_least(1), help="torch threads")
    p.add_argument("--rounds", type=int, default=3, check=cli.at_least(1), help="times that the whole grid is measured")
    p.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="arithmetic of the step")
    return p


def images_per_second(name, size, batch, threads, precision, least=1.0):
    """Median over three steps or more of at least `least` seconds, after two for warm-up, in which the heap grows."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        options = TrainOptions(
            dataset="digits", val_fraction=0, model=name, image_size=size, batch_size=batch, precision=precision, wp_epoch=0,
            plain_epochs=0, path_to_save=folder,
        )  # fmt: skip
        trainer = build_trainer(options, torch.device("cpu"))
        torch.set_num_threads(threads)
        steps, times = full_steps(trainer), []
        while len(times) < 5 or sum(times) < least:
            start = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - start)
    return batch / statistics.median(times[2:])


def growths(times):
    """From each cell to its neighbour with the next larger batch, or size: how many times the time that is, round by round.

    `times` maps (threads, batch, size) to a time per image and pixel for each round.
    """
    found = []
    for axis in (1, 2):
        for small, large in itertools.pairwise(sorted({cell[axis] for cell in times})):
            for cell in times:
                if cell[axis] == small:
                    larger = (*cell[:axis], large, *cell[axis + 1 :])
                    found.append({"from": cell, "to": larger, "growth": ratios(times[larger], times[cell])})
    return found


def measure(args):
    """Of every cell of the grid, images a second and nanoseconds per image and pixel; and where the latter grow most."""
    grid = list(itertools.product(*(sorted(set(values)) for values in (args.threads, args.batches, args.sizes))))
    rates = {cell: [] for cell in grid}
    for _ in range(args.rounds):
        for threads, batch, size in grid:
            rates[threads, batch, size].append(images_per_second(args.model, size, batch, threads, args.precision))
    times = {cell: [1e9 / rate / cell[2] ** 2 for rate in values] for cell, values in rates.items()}
    rows = [
        {"threads": threads, "batch": batch, "image_size": size,
         "images/s": spread(rates[threads, batch, size]), "ns per pixel": spread(times[threads, batch, size])}
        for threads, batch, size in grid
    ]  # fmt: skip
    return rows, max(growths(times), key=lambda growth: growth["growth"]["median"], default=None)


def show(rows, steepest):
    cells = []
    for row in rows:
        time_ns = row["ns per pixel"]
        cells.append([*list(row.values())[:3], f"{row['images/s']['median']:.0f}",
                      f"{time_ns['median']:.0f} ({time_ns['min']:.0f}–{time_ns['max']:.0f})"])  # fmt: skip
    text = table(["threads", "batch", "px", "images/s", "ns per pixel"], cells)
    if steepest:
        (threads, batch, size), (_, larger_batch, larger_size) = steepest["from"], steepest["to"]
        growth = steepest["growth"]
        text += (
            f"\nns per pixel grow most from batch {batch} at {size} px to batch {larger_batch} at {larger_size} px with "
            f"{plural(threads, 'thread')}: {growth['median']:.2f} times ({growth['min']:.2f}–{growth['max']:.2f})"
        )
    return text


def main():
    args = parser().parse()
    rows, steepest = measure(args)
    print(show(rows, steepest))
    plots.scaling(rows, RESULTS / "benchmarks" / f"scaling_{args.model}.png", f"{args.model}, {args.precision}")
    save(f"scaling_{args.model}", {"model": args.model, "precision": args.precision, "rows": rows, "steepest": steepest})
    return 0


if __name__ == "__main__":
    run(main)
