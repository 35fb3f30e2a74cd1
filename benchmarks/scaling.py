"""How training throughput scales with image size, batch and threads: the cost must grow no faster than the work.

  python benchmarks/scaling.py
  python benchmarks/scaling.py -m resnet18 --sizes 32 64 128 --batches 16 64

Images a second of whole training steps on pictures in memory, augmentation included, and the time per picture and pixel beside
that of the smallest image size. Writes results/benchmarks/scaling_<model>.json and .png.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np
import torch

from benchmarks.pairs import save
from models import build_model, list_models, ready_to_train
from utils import cli, plots, runtime
from utils.augment import AUGMENTATIONS
from utils.card import IMAGENET_MEAN, IMAGENET_STD
from utils.errors import run
from utils.optim import build_optimizer
from utils.report import RESULTS, table
from utils.stores import Pixels


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("-m", "--model", default="custom", help=f"one of {', '.join(list_models())}")
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 224], check=cli.at_least(8), help="image sizes, px")
    p.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256], check=cli.at_least(2), help="batch sizes")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], check=cli.at_least(1), help="torch threads")
    p.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="arithmetic of the step")
    return p


def images_per_second(name, size, batch, threads, precision, least=1.5):
    """Median over the steps of at least `least` seconds, after two for warm-up."""
    torch.set_num_threads(threads)
    setup = runtime.Runtime(torch.device("cpu"), precision)
    model = ready_to_train(build_model(name, 10, size), setup.device).train()
    optimizer = build_optimizer("adamw", model, 1e-3, 0.05)
    augment = AUGMENTATIONS["default"](size, IMAGENET_MEAN, IMAGENET_STD)
    random = np.random.default_rng(0)
    pixels = Pixels(torch.from_numpy(random.integers(0, 256, (batch, 1, 28, 28), dtype=np.uint8)))
    labels = torch.from_numpy(random.integers(0, 10, batch))
    times = []
    while len(times) < 5 or sum(times) < least:
        start = time.perf_counter()
        with setup.autocast():
            logits = model(augment(pixels, random))
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times[2:])


def main():
    args = parser().parse()
    runtime.keep_memory()
    rows = []
    for threads in args.threads:
        for batch in args.batches:
            for size in args.sizes:
                rate = images_per_second(args.model, size, batch, threads, args.precision)
                rows.append({"threads": threads, "batch": batch, "image_size": size, "images/s": rate,
                             "ns per pixel": 1e9 / rate / size**2})  # fmt: skip
    cells = [[*list(row.values())[:3], f"{row['images/s']:.0f}", f"{row['ns per pixel']:.1f}"] for row in rows]
    print(table(["threads", "batch", "px", "images/s", "ns per pixel"], cells))
    plots.scaling(rows, RESULTS / "benchmarks" / f"scaling_{args.model}.png", f"{args.model}, {args.precision}")
    save(f"scaling_{args.model}", {"model": args.model, "precision": args.precision, "rows": rows})
    return 0


if __name__ == "__main__":
    run(main)
