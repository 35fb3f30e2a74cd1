"""Look at an image folder before training on it: classes, counts, sizes, broken files, images that are in two splits.

python3 check_dataset.py photos/
python3 check_dataset.py photos/ --json report.json
"""

import hashlib
import pathlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from utils.core import cli
from utils.core.errors import SOME_UNREADABLE, UserError, run
from utils.core.files import write_json
from utils.core.images import load_image
from utils.core.machine import cores
from utils.core.text import plural, table
from utils.data.datasets import open_dataset


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("dataset", help="the path of an image folder: train/<class>/…, val/<class>/…, test/<class>/… or <class>/…")
    p.add_argument("--json", metavar="FILE", help="write what was found here too")
    return p


def look(path):
    """`(size or None, fault or None, digest)` of one file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return load_image(path).size, None, digest
    except UserError as error:
        return None, str(error), digest


def inspect(dataset):
    """Counts by split and class, the spread of the sizes, faults, and images that occur more than once."""
    splits = [split for split in (dataset.train, dataset.val, dataset.test) if split]
    places = [(split.name, path) for split in splits for path in split.paths]
    with ThreadPoolExecutor(cores()) as pool:
        found = list(
            tqdm(pool.map(lambda place: look(place[1]), places), total=len(places), unit="img", leave=False, disable=None)
        )
    sizes = sorted(size for size, _, _ in found if size)
    by_digest = {}
    for (split, path), (_, _, digest) in zip(places, found, strict=True):
        by_digest.setdefault(digest, []).append((split, str(path)))
    repeated = [group for group in by_digest.values() if len(group) > 1]
    return {
        "classes": dataset.classes,
        "images": {s.name: {c: int((s.labels == i).sum()) for i, c in enumerate(dataset.classes)} for s in splits},
        "most common sizes": [[f"{w}×{h}", n] for (w, h), n in Counter(sizes).most_common(5)],
        "short side": [min(map(min, sizes)), max(map(min, sizes))] if sizes else None,
        "unreadable": [fault for _, fault, _ in found if fault],
        "in two splits": [group for group in repeated if len({split for split, _ in group}) > 1],
        "repeated in a split": [group for group in repeated if len({split for split, _ in group}) == 1],
        "notices": dataset.notices,
    }


def show(report):
    """The findings as text."""
    images = report["images"]
    rows = [[c, *(f"{counts[c]:,}" for counts in images.values())] for c in report["classes"]]
    rows.append(["all", *(f"{sum(counts.values()):,}" for counts in images.values())])
    lines = [table(["class", *images], rows), ""]
    train = images["train"].values()
    if max(train) > 3 * min(train):
        lines.append(f"unbalanced: {max(train)} to {min(train)} images a class; consider --class_weights or --balanced_sampler")
    if report["short side"]:
        low, high = report["short side"]
        common = ", ".join(f"{size} ({count})" for size, count in report["most common sizes"])
        lines.append(f"short side {low} to {high} px; most common sizes: {common}")
    for name, what in (
        ("unreadable", ("file does not decode", "files do not decode")),
        ("in two splits", ("image is in two splits", "images are in two splits")),
        ("repeated in a split", ("image repeats", "images repeat")),
    ):
        found = report[name]
        lines.append(plural(len(found), *what) + (":" if found else ""))
        lines += ["  " + (item if isinstance(item, str) else " = ".join(path for _, path in item)) for item in found[:10]]
        if len(found) > 10:
            lines.append(f"  and {len(found) - 10} more" + ("" if name == "unreadable" else " (--json has all)"))
    return "\n".join(lines + report["notices"])


def main():
    args = parser().parse()
    if not pathlib.Path(args.dataset).is_dir():
        raise UserError(f"{args.dataset} is not a folder; give the one that holds train/<class>/… or the class folders")
    report = inspect(open_dataset(args.dataset, val_fraction=0))
    print(show(report))
    if args.json:
        print(f"written: {write_json(args.json, report)}")
    return SOME_UNREADABLE if report["unreadable"] else 0


if __name__ == "__main__":
    run(main)
