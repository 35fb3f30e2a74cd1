"""The files made from a checkpoint: how they answer beside it, what their certificate says, and what benchmark.py measured."""

import json
import os
from dataclasses import dataclass, field

from utils.core.errors import UserError
from utils.core.files import benchmark_file
from utils.data.splits import evenly
from utils.evaluation.metrics import wilson_interval
from utils.inference.formats import FORMATS, converted_folder
from utils.inference.predictors import open_predictor

MOST = 1000  # images that each file is asked about


@dataclass(frozen=True)
class ExportedFile:
    """One file. `fault` says why it was not measured; the fields after it are then empty."""

    name: str
    bytes: int
    older: bool  # than the checkpoint
    fault: str | None = None
    shown: str = ""  # what runs it
    arithmetic: str = ""
    images: int = 0  # that it was asked about
    right: int = 0
    agreeing: int = 0  # with the checkpoint
    parity: dict = field(default_factory=dict)  # the certificate in its card
    measured: dict = field(default_factory=dict)  # its row of benchmark.py, where that measured this very file

    @property
    def interval(self):
        return wilson_interval(self.right, self.images)

    @property
    def certificate(self):
        """The parity certificate in a sentence."""
        if not self.parity.get("rows"):
            return "no certificate in the file"
        rows = self.parity["rows"]
        flips, ties = max(row["flips"] for row in rows), max(row["ties"] for row in rows)
        same = "no answer differs" if not flips else f"{flips} answers differ, {ties} of them ties"
        return f"{same} on {self.parity['source']}; logits by at most {max(row['max_dlogit'] for row in rows):.2g}"


def exported_files(run, answers):
    """An ExportedFile for each model file in converted_models/ beside the model of a Run.

    `answers(file, split)` gives the Evaluation of an opened file on a Split: the images that lie evenly over that of the run,
    at most MOST of them.
    """
    folder, suffixes = converted_folder(run.path), {entry.suffix for entry in FORMATS.values()}
    chosen = evenly(len(run.split), MOST)
    measured = _benchmark(run)
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix not in suffixes or path == folder / os.path.basename(run.path):
            continue
        size, older = path.stat().st_size, path.stat().st_mtime < os.stat(run.path).st_mtime
        row = measured.get(os.path.realpath(path), {})
        try:
            facts = _ask(path, run, chosen, answers)
        except UserError as error:
            facts = {"fault": str(error)}
        found.append(ExportedFile(path.name, size, older, measured=row if row.get("bytes") == size else {}, **facts))
    return found


def _ask(path, run, chosen, answers):
    file = open_predictor(path, device="cpu" if run.device == "cpu" else "auto", otherwise="checkpoint")
    if file.card.classes != run.classes:
        raise UserError("it knows other classes than the checkpoint")
    answer = answers(file, run.split.subset(chosen)).logits.argmax(1)
    own, labels = run.evaluation.logits[chosen].argmax(1), run.evaluation.labels[chosen]
    return {
        "shown": file.shown,
        "arithmetic": file.arithmetic,
        "images": len(chosen),
        "right": int((answer == labels).sum()),
        "agreeing": int((answer == own).sum()),
        "parity": file.card.parity,
    }


def _benchmark(run):
    """{path of a file: row} that benchmark.py wrote for this checkpoint on this data set, where it did."""
    path = benchmark_file(run.card, run.path, run.data, run.dataset.name)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {os.path.realpath(row["file"]): row for row in rows}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
