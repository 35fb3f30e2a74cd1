"""Look through an image folder before training on it, and say what is wrong with which file.

python check_dataset.py -d photos/
python check_dataset.py -d photos/ --html report.html --fix_list actions.csv
python check_dataset.py -d photos/ --folds 4
python check_dataset.py -d photos/ -w weights/photos/custom/best_model.pth

Every file is read once, in parallel. Found are: files that do not decode, wrong extensions, EXIF rotation, extreme aspect
ratios, nearly uniform, dark and blurred images, duplicates and near-duplicates within and across splits and classes, and class
names that differ by spelling. With --folds, small networks are trained on parts of the images and asked about the rest; with -w
the checkpoint is asked: labels that they find improbable are listed, the most suspected first. Nothing is changed.
Exit status: 0 nothing found, 1 findings or a folder that train.py refuses, 2 the folder could not be read.
"""

import collections
import itertools

from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import check_places, protect, write_json, write_text
from utils.core.inputs import no_file, no_folder, no_place
from utils.core.text import csv_text, plural, printable, shortened, table, wrapped

NAME = 40  # characters of a class that are shown
SHOWN = 20  # rows of the table of findings
FOUND = 1  # the exit status where something was found


def parser():
    p = cli.Parser(__doc__)
    data = p.add_argument_group("data")
    data.add_argument(
        "-d",
        "--dataset",
        required=True,
        check=no_folder,
        metavar="FOLDER",
        help="it holds train/<class>/…, val/…, test/…, or <class>/…",
    )
    labels = p.add_argument_group("label errors")
    labels.add_argument("-w", "--weights", check=no_file, metavar="FILE", help="a checkpoint (.pth) to ask about the labels")
    labels.add_argument("--folds", type=int, metavar="K", check=cli.between(2, 20),
                        help="train K small networks and ask each about the images that it was not trained on")  # fmt: skip
    labels.add_argument("--seed", type=int, default=0, check=cli.at_least(0), help="of the folds and their networks")
    out = p.add_argument_group("output")
    out.add_argument("--json", check=no_place, metavar="FILE", help="all facts and findings")
    out.add_argument("--fix_list", check=no_place, metavar="FILE", help="a CSV of path, finding and suggested action")
    out.add_argument("--html", check=no_place, metavar="FILE", help="a page with thumbnails")
    return p


def contradictions(args):
    faults = ["--weights and --folds both rank the labels; take one"] if args.weights and args.folds else []
    if "seed" in args.given and not args.folds:
        faults.append("--seed is of the networks of --folds; leave it out, or add --folds")
    return faults + cli.same_file(args, "json", "fix_list", "html")


def label_findings(args, splits, classes, broken):
    """Likely label errors as findings, the most suspected first; none unless asked for."""
    if not (args.weights or args.folds):
        return []
    from utils.doctor.findings import Finding
    from utils.doctor.suspects import suspected

    how = {"weights": args.weights, "folds": args.folds, "seed": args.seed}
    found, words = suspected(splits, classes, broken=broken, say=print, **how)
    return [
        Finding(
            "likely label error",
            (path,),
            f"labelled {label}; {words} it for {answer} (probability of its label {score:.3f})",
            "look at it",
            {"label": label, "answer": answer, "score": score},
        )
        for path, label, answer, score in found
    ]


def as_json(counts, facts, findings, notices):
    sizes = sorted(fact.size for fact in facts if fact.fault is None)
    return {
        "images": counts,
        "most common sizes": [[f"{w}×{h}", n] for (w, h), n in collections.Counter(sizes).most_common(5)],
        "modes": dict(collections.Counter(fact.mode for fact in facts if fact.fault is None)),
        "short side": [min(map(min, sizes)), max(map(min, sizes))] if sizes else None,
        "findings": {
            kind: [{"paths": list(f.paths), "what": f.words, "action": f.action, **f.detail} for f in found]
            for kind, found in findings.items()
        },
        "notices": notices,
    }


def show(report, findings, classes, refused):
    """The counts, then the findings: one line a kind, and the first SHOWN of all.

    What is wrong is said once for the findings that it is true of, and each file stands on a line of its own, whole, so that
    it can be copied. The other lines are as long as the terminal is wide, or 80 columns.
    """
    counts = report["images"]
    rows = [[shortened(c, NAME), *(f"{split[c]:,}" for split in counts.values())] for c in classes]
    rows.append(["all", *(f"{sum(split.values()):,}" for split in counts.values())])
    lines = [table(["class", *counts], rows), ""]
    if report["short side"]:
        low, high = report["short side"]
        common = ", ".join(f"{size} ({count:,})" for size, count in report["most common sizes"][:3])
        lines.append(f"short side {low} to {high} px; most common sizes: {common}")
    lines += [f"{len(found):>6,}  {kind}" for kind, found in findings.items()]
    lines += [] if findings or refused else ["nothing found"]
    every = [(f"{kind}: {finding.words}", finding.paths) for kind, found in findings.items() for finding in found]
    for what, same in itertools.groupby(every[:SHOWN], key=lambda item: item[0]):
        lines += ["", wrapped(what), *(line for _, paths in same for line in files_of(paths))]
    if len(every) > SHOWN:
        lines += ["", f"and {len(every) - SHOWN:,} more (--json, --fix_list and --html have all)"]
    return "\n".join([*lines, *map(wrapped, report["notices"])])


def files_of(paths, most=4):
    """The files of a finding, a line each; a copy of the first one begins with =. An imbalance is of no file."""
    more = [f"    and {plural(len(paths) - most, 'file')} more"] if len(paths) > most else []
    return [*(f"  {'= ' * (number > 0)}{printable(path)}" for number, path in enumerate(paths[:most])), *more]


def main():
    args = parser().parse(contradictions)
    from utils.doctor.facts import read_all
    from utils.doctor.findings import find
    from utils.doctor.scan import scan_folder

    classes, splits, notices, refusal = scan_folder(args.dataset)
    notices += [refusal] if refusal else []
    protect(*(path for split in splits for path in split.paths), *filter(None, [args.weights]))
    check_places(args.json, args.fix_list, args.html)
    facts = read_all(splits)
    broken = {fact.path for fact in facts if fact.fault}
    if all(fact.fault for fact in facts):
        raise UserError(f"none of the {plural(len(facts), 'image')} in {args.dataset} could be read")
    findings = collections.defaultdict(list)
    for finding in [*find(facts, classes), *label_findings(args, splits, classes, broken)]:
        findings[finding.kind].append(finding)
    counts = {s.name: {c: int((s.labels == i).sum()) for i, c in enumerate(classes)} for s in splits}
    report = as_json(counts, facts, findings, notices)
    print(show(report, findings, classes, refusal))
    if args.json:
        print(f"written: {write_json(args.json, report)}")
    if args.fix_list:
        rows = [[path, kind, f.words, f.action] for kind, found in findings.items() for f in found for path in f.paths]
        print(f"written: {write_text(args.fix_list, csv_text(['path', 'finding', 'what', 'action'], rows))}")
    if args.html:
        from utils.doctor.page import render

        print(f"written: {write_text(args.html, render(args.dataset, classes, counts, findings, broken))}")
    return FOUND if findings or refusal else 0


if __name__ == "__main__":
    run(main)
