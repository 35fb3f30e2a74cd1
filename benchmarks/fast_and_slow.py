"""Whether the fast path learns as well as the slow one: the same epochs, test accuracies beside each other.

  python benchmarks/fast_and_slow.py --data_dir data/

FashionCNN on all of Fashion-MNIST's `train`, augmented in every epoch, the test split looked at once, at the end. Fast is
what train.py does with --compile: batched augmentation, bf16 where it pays. Slow is torchvision's transforms on one image
at a time in a loader worker, and fp32. One run after the other; all of it takes most of an hour on two cores. Writes
results/benchmarks/fast_and_slow.json.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import save
from benchmarks.time_to_accuracy import train_once
from utils.core import cli
from utils.core.errors import run
from utils.core.text import table

COMMON = "-m custom --image_size 64 --val_fraction 0 --max_epoch 5 --wp_epoch 1 --plain_epochs 0"
SIDES = {"slow": "--augment torchvision --precision fp32", "fast": "--compile"}
WITHIN = 0.005  # of the mean accuracies


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw")
    p.add_argument("--seeds", type=int, default=3, check=cli.at_least(1), help="runs of each side")
    return p


def main():
    args = parser().parse()
    runs = {side: [] for side in SIDES}
    for seed in range(args.seeds):
        for side, flags in SIDES.items():
            runs[side].append(train_once(f"{COMMON} {flags}", args.data_dir, seed))
            print(f"{side}, seed {seed}: Acc@1 {runs[side][-1]['Acc@1']:.4f}", flush=True)
    accuracy = {side: [run["Acc@1"] for run in values] for side, values in runs.items()}
    means = {side: sum(values) / len(values) for side, values in accuracy.items()}
    difference = means["fast"] - means["slow"]
    rows = [[side, f"{means[side]:.4f}", f"{min(accuracy[side]):.4f}–{max(accuracy[side]):.4f}"] for side in SIDES]
    print(table(["", "mean test Acc@1", "least–greatest"], rows))
    met = abs(difference) <= WITHIN
    print(f"difference {100 * difference:+.2f} points, {'within' if met else 'outside of'} ±{100 * WITHIN:g}")
    save("fast_and_slow", {"flags": {side: f"{COMMON} {flags}" for side, flags in SIDES.items()}, "runs": runs,
                           "means": means, "difference": difference, "met": met})  # fmt: skip
    return 0


if __name__ == "__main__":
    run(main)
