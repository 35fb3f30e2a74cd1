"""Training wall time to a test accuracy on Fashion-MNIST, by documented recipes of train.py, beside a plain reference.

  python benchmarks/time_to_accuracy.py --data_dir ../shared/data
  python benchmarks/time_to_accuracy.py --data_dir ../shared/data --goals 0.9209 --seeds 3 --reference

Every run trains on all of `train` for the fixed epochs of its recipe and looks at the test split once, at the end. The
time is that of the whole of train.py but importing and that one look: reading the data, the steps, writing checkpoints. The
share of the processors that the host of a virtual machine took away meanwhile stands beside it; with --tries a run that lost
more than a twentieth to it is made again, and the least disturbed one counts, whatever its time and accuracy.

The reference is the same network for the same epochs as torchvision's reference script trains: one picture at a time through
torchvision's transforms in loader workers, fp32, NCHW, the default allocator; its time is its measured rate times the
pictures of all epochs, and is marked as such. Writes results/benchmarks/time_to_accuracy.json.
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import ROOT, child, output_of, save, share_of_host, spread
from utils import cli
from utils.errors import run
from utils.report import table

# goal: the flags of train.py that reach it, and the seconds that it may take on two cores
COMMON = "-m custom --image_size 28 --resize_size 28 --wp_epoch 1 --compile"  # every pixel as it is
LARGE = "--batch_size 256 --base_lr 0.008 --weight_decay 0.4"
RECIPES = {
    "0.9209": (f"{COMMON} {LARGE} --max_epoch 8 --augment none", 90),
    "0.93": (f"{COMMON} {LARGE} --max_epoch 25 --augment flip_shift --plain_epochs 5", 240),
}

DISTURBED = 0.05  # share of the processors taken away by the host


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="../shared/data", help="holds FashionMNIST/raw")
    p.add_argument("--goals", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="test accuracies")
    p.add_argument("--seeds", type=int, default=3, check=cli.at_least(1), help="runs of each recipe")
    p.add_argument("--tries", type=int, default=1, check=cli.at_least(1), help="most runs of a seed that the host disturbs")
    p.add_argument("--reference", action="store_true", help="time the reference too")
    return p


def train_once(flags, data_dir, seed):
    """One run of train.py: seconds, test accuracy, where the seconds went, and the share that the machine's host took away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "--val_fraction", "0", *flags.split()]
        command += ["--data_dir", data_dir, "--seed", str(seed), "--path_to_save", folder]
        with share_of_host() as host:
            output_of(command)
        (history,) = pathlib.Path(folder).rglob("history.json")
        facts = json.loads(history.read_text())
    seconds = facts["seconds"]
    trained = seconds["total"] - seconds["evaluating"]
    return {"seconds": trained, "Acc@1": facts["final"]["Acc@1"], "parts": seconds, **host}


def least_disturbed(flags, data_dir, seed, tries):
    """`train_once` until the host leaves it alone, `tries` times at most: the run that lost least, with the times of all."""
    runs = []
    for _ in range(tries):
        runs.append(train_once(flags, data_dir, seed))
        if runs[-1]["stolen"] <= DISTURBED:
            break
    tried = [{key: run[key] for key in ("seconds", "stolen")} for run in runs]
    return min(runs, key=lambda run: run["stolen"]) | {"tried": tried}


def reference_seconds(flags, data_dir):
    """What the same epochs cost the reference: pictures over its measured rate."""
    words = flags.split()
    size, epochs = int(words[words.index("--image_size") + 1]), int(words[words.index("--max_epoch") + 1])
    case = ["--side", "reference", "--cases", "custom", "--data_dir", data_dir, "--image_size", size]
    rate = child(ROOT / "benchmarks" / "train_throughput.py", *case)["images/s"]
    return {"images/s": rate, "seconds": 60_000 * epochs / rate, "how": "measured rate times the pictures of all epochs"}


def measure(goal, args):
    flags, most = RECIPES[goal]
    runs = [least_disturbed(flags, args.data_dir, seed, args.tries) for seed in range(args.seeds)]
    seconds, accuracy = spread([r["seconds"] for r in runs]), spread([r["Acc@1"] for r in runs])
    met = accuracy["median"] >= float(goal) and seconds["median"] <= most
    result = {
        "flags": f"--val_fraction 0 {flags}",
        "seconds": seconds,
        "Acc@1": accuracy,
        "stolen": spread([r["stolen"] for r in runs]),
        "limit_s": most,
        "met": met,
        "runs": runs,
    }
    if args.reference:
        result["reference"] = reference_seconds(flags, args.data_dir)
    return result


def show(results):
    rows = []
    for goal, r in results.items():
        reference = f"{r['reference']['seconds']:.0f} s" if "reference" in r else ""
        times, accuracy = r["seconds"], r["Acc@1"]
        rows.append([goal, f"{accuracy['median']:.4f} ({accuracy['min']:.4f}–{accuracy['max']:.4f})",
                     f"{times['median']:.0f} s ({times['min']:.0f}–{times['max']:.0f})", f"{r['limit_s']} s",
                     "met" if r["met"] else "missed", f"{r['stolen']['median']:.0%}", reference])  # fmt: skip
    return table(["goal", "test Acc@1", "training", "limit", "", "taken by the host", "reference"], rows)


def main():
    args = parser().parse()
    results = {}
    for goal in args.goals:
        results[goal] = measure(goal, args)
        print(show({goal: results[goal]}), flush=True)
    save("time_to_accuracy", {"goals": results})
    return 0


if __name__ == "__main__":
    run(main)
