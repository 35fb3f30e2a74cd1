"""Training wall time to a test accuracy on Fashion-MNIST, by documented recipes of train.py, beside a plain reference.

  python benchmarks/time_to_accuracy.py --data_dir data/
  python benchmarks/time_to_accuracy.py --data_dir data/ --goals 0.9209 --seeds 5
  python benchmarks/time_to_accuracy.py --data_dir data/ --alone                # without the reference, in minutes

Every run trains on all of `train` for the fixed epochs of its recipe and looks at the test split once, at the end. The
time is that of all but importing and that one look: reading the data, the steps, writing checkpoints. Compiled loops are
kept from run to run, as train.py keeps them: the first run on a machine takes longer, which XDG_CACHE_HOME=$(mktemp -d) shows.

The reference trains the same network by the same recipe as torchvision's own reference script does: one image at a time
through torchvision's transforms in loader workers, fp32, NCHW, the default allocator. The two sides take turns, a pair for
each seed, and the ratio of their times counts pair by pair. The share of the processors that the host of a virtual machine
took away meanwhile stands beside each run; with --tries a run that lost more than a twentieth to it is made again, and the
least disturbed one counts, whatever its time and accuracy. Writes results/benchmarks/time_to_accuracy.json.
"""

import functools
import itertools
import json
import pathlib
import sys
import tempfile
import time
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import ROOT, alternate, child, output_of, ratios, save, share_of_host, spread
from utils.core import cli
from utils.core.errors import run
from utils.core.text import table


class Recipe(NamedTuple):
    """What the goals differ in."""

    epochs: int
    moved: int  # the first epochs, whose images are mirrored and shifted by up to a pixel
    limit_s: int  # that training may take on two cores

    @property
    def flags(self):
        """Those of train.py."""
        augment = f"--augment flip_shift --plain_epochs {self.epochs - self.moved}" if self.moved else "--augment none"
        return f"{COMMON} --max_epoch {self.epochs} {augment}"


SIDE = 28  # px: every one as it is
BATCH, RATE, DECAY = 256, 0.008, 0.4  # images a step, learning rate, weight decay
WARM_UP = 1  # epochs
COMMON = (f"-m custom --image_size {SIDE} --resize_size {SIDE} --wp_epoch {WARM_UP} --compile --val_fraction 0 "
          f"--batch_size {BATCH} --base_lr {RATE} --weight_decay {DECAY}")  # fmt: skip
RECIPES = {"0.9209": Recipe(epochs=8, moved=0, limit_s=90), "0.93": Recipe(epochs=25, moved=20, limit_s=240)}

SIDES = ("ours", "reference")
DISTURBED = 0.05  # share of the processors taken away by the host


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw")
    p.add_argument("--goals", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="test accuracies")
    p.add_argument("--seeds", type=int, default=3, check=cli.at_least(1), help="pairs of runs for each goal")
    p.add_argument("--tries", type=int, default=1, check=cli.at_least(1), help="most runs of a seed that the host disturbs")
    p.add_argument("--alone", action="store_true", help="do not run the reference")
    p.add_argument("--reference", type=int, metavar="SEED", help="one run of the reference, as JSON (used by the rest)")
    return p


def train_once(flags, data_dir, seed):
    """One run of train.py: seconds, test accuracy, where the seconds went, and the share that the machine's host took away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *flags.split()]
        command += ["--data_dir", data_dir, "--seed", str(seed), "--path_to_save", folder]
        with share_of_host() as host:
            output_of(command)
        (history,) = pathlib.Path(folder).rglob("history.json")
        facts = json.loads(history.read_text())
    seconds = facts["seconds"]
    trained = seconds["total"] - seconds["evaluating"]
    return {"seconds": trained, "Acc@1": facts["final"]["Acc@1"], "parts": seconds, **host}


def reference_once(goal, data_dir, seed):
    """One run of the reference, in a process of its own."""
    with share_of_host() as host:
        found = child(__file__, "--goals", goal, "--data_dir", data_dir, "--reference", seed)
    return found | host


def reference(recipe, data_dir, seed):
    """The recipe with torchvision's transforms in loader workers, fp32, NCHW and the default allocator."""
    import torch
    from torch import nn
    from torchvision import datasets, transforms

    from models.build import build_model
    from utils.core.card import IMAGENET_MEAN, IMAGENET_STD
    from utils.core.machine import cores
    from utils.training.schedule import Schedule

    started = time.perf_counter()
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    to_input = [transforms.Grayscale(3), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    plain = transforms.Compose(to_input)
    moved = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomCrop(SIDE, padding=1), *to_input])

    def batches(transform, train):
        data = datasets.FashionMNIST(data_dir, train, transform)
        pinned = device.type == "cuda"
        return torch.utils.data.DataLoader(data, BATCH, shuffle=train, num_workers=cores(), pin_memory=pinned)

    loaders = {transform: batches(transform, train=True) for transform in (moved, plain)}
    model = build_model("custom", 10, SIDE).to(device).train()
    decayed, others = ([p for p in model.parameters() if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer, criterion = torch.optim.AdamW(groups, lr=RATE), nn.CrossEntropyLoss()
    steps = len(loaders[plain])
    rate = Schedule(recipe.epochs * steps, WARM_UP * steps, RATE, 1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step) / RATE)
    for epoch in range(recipe.epochs):
        for images, labels in loaders[moved if epoch < recipe.moved else plain]:
            images, labels = images.to(device), labels.to(device)
            output = model(images)
            loss = criterion(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item(), (output.argmax(1) == labels).float().mean().item()  # its meters read both in every step
    seconds = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        right = sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in batches(plain, train=False))
    return {"seconds": seconds, "Acc@1": right / 10_000}


def least_disturbed(once, tries):
    """`once()` until the host leaves it alone, `tries` times at most: the run that lost least, with the times of all."""
    runs = []
    for _ in range(tries):
        runs.append(once())
        if runs[-1]["stolen"] <= DISTURBED:
            break
    tried = [{key: run[key] for key in ("seconds", "stolen")} for run in runs]
    return min(runs, key=lambda run: run["stolen"]) | {"tried": tried}


def measure(goal, args):
    """All pairs of one goal."""
    recipe = RECIPES[goal]

    def side(once, what):
        seeds = itertools.count()
        return lambda: least_disturbed(functools.partial(once, what, args.data_dir, next(seeds)), args.tries)

    sides = dict(zip(SIDES, (side(train_once, recipe.flags), side(reference_once, goal)), strict=True))
    found = alternate({name: sides[name] for name in SIDES[: 1 if args.alone else 2]}, args.seeds)
    result = {"flags": recipe.flags, "limit_s": recipe.limit_s}
    for name, runs in found.items():
        result[name] = {key: spread([run[key] for run in runs]) for key in ("seconds", "Acc@1", "stolen")} | {"runs": runs}
    seconds, accuracy = result["ours"]["seconds"], result["ours"]["Acc@1"]
    result["met"] = accuracy["median"] >= float(goal) and seconds["median"] <= recipe.limit_s
    if "reference" in found:
        result["ratio"] = ratios(result["reference"]["seconds"]["all"], seconds["all"])
    return result


def show(results):
    def shown(values, digits):
        return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"

    rows = []
    for goal, r in results.items():
        ours, theirs = ([shown(r[side]["Acc@1"], 4), shown(r[side]["seconds"], 0)] if side in r else ["", ""] for side in SIDES)
        faster, stolen = (
            shown(r["ratio"], 1) if "ratio" in r else "",
            max(r[side]["stolen"]["max"] for side in SIDES if side in r),
        )
        rows.append([goal, *ours, r["limit_s"], "met" if r["met"] else "missed", *theirs, faster, f"{stolen:.0%}"])
    header = ["goal", "test Acc@1", "training, s", "limit, s", "", "reference's Acc@1", "its training, s", "ratio"]
    return table([*header, "taken by the host, at most"], rows)


def main():
    args = parser().parse()
    if args.reference is not None:
        print(json.dumps(reference(RECIPES[args.goals[0]], args.data_dir, args.reference)))
        return 0
    results = {}
    for goal in args.goals:
        results[goal] = measure(goal, args)
        print(show({goal: results[goal]}), flush=True)
    save("time_to_accuracy", {"goals": results})
    return 0


if __name__ == "__main__":
    run(main)
