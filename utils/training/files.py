"""The files of a run: checkpoints, history, curves and class names, in one folder; and the earlier run that is resumed."""

import pathlib
import shutil

from models.checkpoint import read_checkpoint, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.files import replacing, write_json, write_text
from utils.evaluation import plots
from utils.runtime.distributed import from_main, on_main


class RunFiles:
    """Writes on rank 0 only, each file completely or not at all; reads the same on all ranks."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.best, self.last = self.folder / "best_model.pth", self.folder / "last.pth"
        self.history, self.curves = self.folder / "history.json", self.folder / "curves.png"
        self.classes = self.folder / "classes.txt"
        on_main(self.folder.mkdir, parents=True, exist_ok=True)

    def __iter__(self):
        return iter((self.best, self.last, self.history, self.curves, self.classes))

    def save_last(self, state, card, options, plan):
        """The training state, from which a run resumes. Every rank has to call it."""
        extra = {"card": card.to_dict(), "choices": options.kept, "batches": plan.kept}
        on_main(save_checkpoint, self.last, state.state_dict() | extra)

    def save_best(self, weights, card):
        on_main(save_checkpoint, self.best, {"model": weights, "card": card.to_dict()})

    def read_best(self):
        """`(weights, card)` of the best model so far."""
        contents = from_main(read_checkpoint, self.best)
        return contents["model"], ModelCard.from_dict(contents["card"], self.best)

    def write_classes(self, classes):
        on_main(write_text, self.classes, "\n".join(classes) + "\n")

    def write_history(self, facts):
        on_main(write_json, self.history, facts)

    def draw_curves(self, epochs, title):
        on_main(plots.training_curves, epochs, self.curves, title=title)


def read_training_state(path):
    """The dict in a `last.pth`. Raises UserError where the file is missing, damaged, or holds weights alone."""
    saved = read_checkpoint(path)
    if "optimizer" not in saved or "choices" not in saved:
        raise UserError(f"{path} holds weights but no training state; give the last.pth of the run", option="resume")
    return saved


def check_training_state(path):
    """Raise what `read_training_state` raises."""
    read_training_state(path)


def check_same_run(saved, path, card, options):
    """Raise UserError, with both values, where a training state is of another model, data set or kind of run."""
    earlier = ModelCard.from_dict(saved["card"], path)
    choices = {name.removeprefix("--"): value for name, value in saved["choices"].items()}  # as older versions wrote them
    theirs, ours = _facts(earlier) | choices, _facts(card) | options.kept
    for name, value in ours.items():
        if value != theirs.get(name):
            raise UserError(
                f"{path}: {name} was {theirs.get(name)} in that run and is {value} now; give what it had", option="resume"
            )


def _facts(card):
    names = ("image_size", "resize_size", "norm_type", "classes")
    return {"model": card.architecture} | {name: getattr(card, name) for name in names}


def bring_best(path, files, saved):
    """Copy the best model that stands beside the training state at `path` into the folder of this run.

    Where there is none any more, the state forgets what its best scores were.
    """
    best = path.with_name(files.best.name)
    if not best.exists():
        saved["best"] = {}
    elif not (files.best.exists() and best.samefile(files.best)):
        with replacing(files.best) as temporary:
            shutil.copyfile(best, temporary)


def find_earlier_run(options, files, card):
    """The training state that `options.resume` names, or None for `auto` where there is none yet."""
    path = files.last if options.resume == "auto" else pathlib.Path(options.resume)
    if options.resume == "auto" and not path.exists():
        return None
    saved = read_training_state(path)
    check_same_run(saved, path, card, options)
    bring_best(path, files, saved)
    return saved
