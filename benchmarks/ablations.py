"""What one flag changes at a time, by the images held out from train: optimizers, averages of weights, flips, regularisation.

  python benchmarks/ablations.py --data_dir data/
  python benchmarks/ablations.py --data_dir data/ --rows base lookahead --seeds 5

custom at 28 px, eight epochs of 54,000 images of Fashion-MNIST for each row and seed; one after the other, a seed of all
rows before the next seed. The test images stay unread. Two rows are no choices of train.py, as they have not earned it, and
are registered here: Lookahead around AdamW, by timm, and flips that alternate, so that an image that was mirrored in one
epoch is not in the next. What the differences say of longer runs is open. Writes results/benchmarks/ablations.json.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import ROOT, output_of, save, spread
from utils.core import cli
from utils.core.errors import run
from utils.core.text import table

HELD_OUT = 0.1  # of the 60,000 images
COMMON = (f"-m custom --image_size 28 --resize_size 28 --max_epoch 8 --wp_epoch 1 --plain_epochs 2 --batch_size 256 "
          f"--val_fraction {HELD_OUT} --compile --precision fp32 --no_test")  # fmt: skip
SETTINGS = {"optimizer": "adamw", "base_lr": 0.008, "weight_decay": 0.4, "augment": "flip_shift"}  # of the row `base`
ROWS = {
    "base": {},
    "muon": {"optimizer": "muon", "base_lr": 0.004},
    "lookahead": {"optimizer": "lookahead"},
    "ema": {"ema": True},
    "alternating": {"augment": "alternating_flip_shift"},
    "erasing": {"random_erasing": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "mixup": {"mixup": 0.2},
}
SLOW_STEPS = 4  # steps of AdamW for each of Lookahead; it divides the 8 · 211 steps of a run, which so ends on the slow weights


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw")
    p.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="which changes")
    p.add_argument("--seeds", type=int, default=3, check=cli.at_least(1), help="runs of each row")
    p.add_argument("--train", metavar="FLAGS", help="one run of train.py with what is registered here (used by the rest)")
    return p


def flags_of(row):
    """The flags of train.py of a row that differ between the rows."""
    settings = SETTINGS | ROWS[row]
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in settings.items())


def register():
    """Make Lookahead and alternating flips choices of train.py in this process."""
    import numpy as np
    from timm.optim import Lookahead

    from utils.data.augment import FlipShift
    from utils.data.registry import AUGMENTATIONS
    from utils.training.optim import adamw
    from utils.training.registry import OPTIMIZERS

    @OPTIMIZERS.register("lookahead")
    def lookahead(groups, lr, momentum, **options):
        """AdamW whose weights return, every few steps, half of the way to where they were (Zhang et al. 2019)."""
        return Lookahead(adamw(groups, lr, momentum, **options), alpha=0.5, k=SLOW_STEPS)

    @AUGMENTATIONS.register("alternating_flip_shift")
    class AlternatingFlipShift(FlipShift):
        """An image is mirrored in every other epoch (Jordan 2024); its pixels say in which, and what was seen, the epoch."""

        seen, epoch_images = 0, round(60_000 * (1 - HELD_OUT))

        def mirrored(self, pixels, random):
            epoch = self.seen // self.epoch_images
            self.seen += len(pixels.data)
            sums = pixels.data.long().flatten(1).sum(1).cpu().numpy()
            return (sums[:, None] + epoch) % 2 == np.ones(1)


def train_once(row, data_dir, seed):
    """Held-out accuracy after the last epoch of a run, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{COMMON} {flags_of(row)} --data_dir {data_dir} --seed {seed} --path_to_save {folder}"
        output_of([sys.executable, __file__, f"--train={flags}"])
        (history,) = pathlib.Path(folder).rglob("history.json")
        facts = json.loads(history.read_text())
    return {"Acc@1": facts["epochs"][-1]["val"]["Acc@1"], "seconds": facts["seconds"]["total"]}


def show(rows):
    def shown(row):
        values = rows[row]["Acc@1"]
        return [row, flags_of(row), f"{statistics.mean(values['all']):.4f}", f"{values['min']:.4f}–{values['max']:.4f}"]

    return table(["row", "flags", "mean held-out Acc@1", "least–greatest"], [shown(row) for row in rows])


def main():
    args = parser().parse()
    if args.train:
        import train

        register()
        sys.argv = [os.fspath(ROOT / "train.py"), *args.train.split()]
        return train.main()
    found = {row: [] for row in args.rows}
    for seed in range(args.seeds):
        for row, runs in found.items():
            runs.append(train_once(row, args.data_dir, seed))
            print(f"{row}, seed {seed}: Acc@1 {runs[-1]['Acc@1']:.4f} in {runs[-1]['seconds']:.0f} s", flush=True)
    rows = {
        row: {"flags": flags_of(row)} | {key: spread([run[key] for run in runs]) for key in ("Acc@1", "seconds")}
        for row, runs in found.items()
    }
    print(show(rows))
    save("ablations", {"flags": COMMON, "rows": rows})
    return 0


if __name__ == "__main__":
    run(main)
