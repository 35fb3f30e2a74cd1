"""The files of a run: checkpoints, history, curves and class names, in one folder; and the earlier run that is resumed."""

import os
import pathlib
import shutil

from models.checkpoint import read_checkpoint, save_checkpoint
from utils.core import lock
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.files import replacing, write_json, write_text
from utils.core.flag_files import RECORD
from utils.core.text import printable
from utils.evaluation import plots
from utils.runtime.distributed import from_main, on_main
from utils.training.checks import check_parts
from utils.training.fingerprint import differences, notices
from utils.training.writer import Writer


class RunFiles:
    """Writes on rank 0 only, each file completely or not at all; reads the same on all ranks."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.best, self.last = self.folder / "best_model.pth", self.folder / "last.pth"
        self.replaced = self.folder / "replaced_model.pth"  # the best model of another run, which this one replaces
        self.previous = self.folder / "last_previous.pth"  # what `last` was before: if it is damaged, a run goes on from here
        self.history, self.curves = self.folder / "history.json", self.folder / "curves.png"
        self.classes, self.arguments = self.folder / "classes.txt", self.folder / RECORD
        self.skipped = self.folder / "skipped_files.txt"  # of the images that were left out as broken, where there are any
        self.writer = Writer()
        self.has_best = False  # whether `best` is of this run, likewise
        self.continues = False  # whether `last` is of this run, and not of another one that this one replaces
        on_main(_make, self.folder)

    def hold(self):
        """Keep other runs out of the folder; return a notice where that is not possible. Raises UserError if there is one."""
        return from_main(lock.hold, self.folder)

    def release(self):
        """Finish writing, and let other runs into the folder."""
        try:
            self.writer.wait()
        finally:
            on_main(lock.release, self.folder)

    def replacement(self):
        """A sentence on the run in the folder that this one replaces; None where there is none."""
        others = self.best.exists() and not self.has_best
        if self.continues or not (self.last.exists() or others):
            return None
        kept = f"its best model stays as {self.replaced.name}; " if self.replaced.exists() or others else ""
        return (
            f"{self.folder} holds an earlier run, which this one replaces; {kept}to keep all of it, resume it or save elsewhere"
        )

    def keep_replaced(self):
        """Move the best model of another run out of the way of the first of this one."""
        if self.best.exists() and not self.has_best:
            os.replace(self.best, self.replaced)
        self.has_best = True

    def __iter__(self):
        files = (self.best, self.last, self.previous, self.history, self.curves, self.classes, self.arguments, self.skipped)
        return (path for path in files if path not in (self.previous, self.skipped) or path.exists())

    def save_last(self, state, card, run, plan):
        """The training state, from which a run resumes, with the Fingerprint of `run`; the one before is kept.

        It is copied, and written while the training goes on, as the best model is. Every rank has to call it.
        """
        facts = {name: value for name, value in card.training.items() if name not in ("val", "final")}  # of the best epoch
        card = card.replace(training=facts | {"epoch": state.epoch})
        extra = {"card": card.to_dict(), "batches": plan.kept} | run.to_dict()
        on_main(self.writer.add, self._save_last, state.state_dict() | extra)

    def _save_last(self, contents):
        if not self.continues:
            self.previous.unlink(missing_ok=True)
        save_checkpoint(self.last, contents, keep=self.previous if self.continues else None)
        self.continues = True

    def save_best(self, weights, card):
        on_main(self.writer.add, self._save_best, {"model": weights, "card": card.to_dict()})

    def _save_best(self, contents):
        self.keep_replaced()
        save_checkpoint(self.best, contents)

    def read_best(self):
        """`(weights, card)` of the best model so far."""
        self.writer.wait()
        contents = from_main(read_checkpoint, self.best)
        return contents["model"], ModelCard.from_dict(contents["card"], self.best)

    def write_classes(self, classes):
        on_main(write_text, self.classes, "\n".join(classes) + "\n")

    def write_skipped(self, sentences):
        """What is wrong with each image that was left out, a line each; where there is none, an earlier list goes."""
        if sentences:
            on_main(write_text, self.skipped, "".join(f"{printable(sentence)}\n" for sentence in sentences))
        else:
            on_main(self.skipped.unlink, missing_ok=True)

    def write_arguments(self, text):
        on_main(write_text, self.arguments, text)

    def write_history(self, facts):
        on_main(write_json, self.history, facts)

    def draw_curves(self, epochs, title):
        on_main(plots.training_curves, epochs, self.curves, title=title)


def _make(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror})", option="path_to_save") from None


class DamagedState(UserError):
    """A training state is missing or cannot be read, so that the one before it may help."""


def read_training_state(path):
    """The dict in a `last.pth`. Raises DamagedState for one that is missing or damaged, UserError for weights alone."""
    try:
        saved = read_checkpoint(path)
    except UserError as error:
        raise DamagedState(str(error), error.option) from None
    if "optimizer" not in saved or "choices" not in saved:
        raise UserError(f"{path} holds weights but no training state; give the last.pth of the run", option="resume")
    check_parts(saved, path)
    return saved


def check_training_state(path):
    """Raise what `read_training_state` raises."""
    read_training_state(path)


def check_same_run(saved, path, ours):
    """Raise UserError, with both values, for all in which a training state contradicts the Fingerprint of this run."""
    clauses = differences(saved, ours)
    if clauses:
        raise UserError(f"{path}: {'; '.join(clauses)}; give what it had, or start anew without resume", option="resume")


def find_earlier_run(options, files, ours):
    """`(state, notices)`: the training state that `options.resume` names, or None for `auto` where there is none yet.

    Where the newest state in the folder of the run is damaged, `auto` takes the one before, and a notice says so. Raises
    UserError for a state that cannot be read, and for one of another run than `ours` (Fingerprint) is.
    """
    if options.resume != "auto":
        path, said = pathlib.Path(options.resume), []
        saved = read_training_state(path)
    elif files.last.exists() or files.previous.exists():
        path, saved, said = _newest_whole(files)
    else:
        return None, []
    check_same_run(saved, path, ours)
    said += notices(saved, path, ours) + bring_best(path, files, saved)
    if options.resume == "auto" and path == files.previous:
        os.replace(files.previous, files.last)
    files.continues = path.resolve().parent == files.folder.resolve()
    files.has_best |= files.continues
    return saved, said


def _newest_whole(files):
    """`(path, state, notices)` of the newest training state in the folder of a run that is not damaged."""
    if files.last.exists():
        files.last.open("rb").close()  # raises the OSError of a file that is not damaged, but may not be read
    try:
        return files.last, read_training_state(files.last), []
    except DamagedState as error:
        if not files.previous.exists():
            raise UserError(f"{error}; there is no state before it, so the run can only start anew", "resume") from None
        notice = f"{error}; the run goes on from the state that was saved before"
        return files.previous, read_training_state(files.previous), [notice]


def bring_best(path, files, saved):
    """Copy the best model that stands beside the training state at `path` into the folder of this run; return notices.

    Where there is none, or only one of another epoch, the state forgets what its best scores were.
    """
    best = path.with_name(files.best.name)
    if not best.exists():
        saved["best"] = {}
        return []
    try:
        contents = read_checkpoint(best)
        facts = ModelCard.from_dict(contents["card"], best).training if "card" in contents else {}
    except UserError as error:
        saved["best"] = {}
        return [f"{error}; the best model is looked for again among the epochs that are left"]
    if facts.get("epoch") != saved["best"].get("epoch"):  # of an epoch that is not in the state, and is trained once more
        saved["best"] = {}
    if not (files.best.exists() and best.samefile(files.best)):
        files.keep_replaced()
        with replacing(files.best) as temporary:
            shutil.copyfile(best, temporary)
    return []
