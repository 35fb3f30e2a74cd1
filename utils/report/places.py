"""Which model files a report is on, what to call them, and where the report goes."""

import pathlib
import re

from utils.core.files import RESULTS, name_that_fits, origin, place_name

OF_A_RUN = ("best_model.pth", "last.pth")  # what train.py calls its checkpoints, in a folder that has the model's name


def model_file(place):
    """The model file that the folder of a run, or a file, stands for."""
    path = pathlib.Path(place)
    return path / OF_A_RUN[0] if path.is_dir() else path


def names_of(paths):
    """A short name for each model file: its folder's for a checkpoint of a run; the whole path where two are alike."""
    names = [_short(path) for path in paths]
    return names if len(set(names)) == len(names) else list(map(str, paths))


def default_output(runs):
    """Where the page on a list of Runs goes unless it is said: results/reports/<data set>_<name>.html.

    The split stands in the name where it is not the one that is reported on unless told otherwise.
    """
    first = runs[0]
    other = [first.split.name] if first.split is not first.dataset.reported else []
    name = "_".join([place_name(first.data, first.dataset.name), "_and_".join(map(_file_part, runs)), *other])
    return RESULTS / "reports" / name_that_fits(re.sub(r"[^\w.-]+", "-", name).strip("-."), ".html")


def _file_part(run):
    """What tells a run from others, however its model file is called."""
    path, trained_on = pathlib.Path(run.path), pathlib.Path(run.card.training.get("dataset") or "").name
    return "_".join(filter(None, (_short(path), origin(path, run.card.file_name, trained_on))))


def _short(path):
    return path.parent.name if path.name in OF_A_RUN else path.stem
