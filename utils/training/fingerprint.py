"""What a run that is resumed must have in common with the one that it goes on with: data, split, model and options."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass

import torch

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.text import plural
from utils.data.places import size_of, tail_of
from utils.runtime.distributed import world_size
from utils.training.options import CHANGES, FREE, GROWS, TrainOptions

READ_FILES, READ_BYTES = 512, 4096  # of a split, so many files at most are looked into, at their end, where the pixels are


@dataclass(frozen=True)
class Fingerprint:
    """Written into every training state, and compared when it is resumed."""

    choices: dict  # of the options and the model: they must be equal, or as CHANGES says
    data: dict  # by split: see `data_facts`; must be equal
    machine: dict  # what only rounds otherwise; a difference is said

    def settled(self, precision):
        """The same, with the precision that the run has decided on."""
        return dataclasses.replace(self, choices=self.choices | {"precision": precision})

    def to_dict(self):
        return dataclasses.asdict(self)


def fingerprint(options, card, data, precision, device, teacher=None):
    """The Fingerprint of a run of `options` (TrainOptions) on `data` (`data_facts`), perhaps with a Teacher."""
    choices = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if CHANGES[field.name] != FREE}
    choices |= _model_facts(card) | {"precision": precision, "teacher": teacher.digest if teacher else None}
    return Fingerprint(choices, data, {"device": device.type, "torch": str(torch.__version__), "processes": world_size()})


def data_facts(dataset):
    """By split: how many images, and two checksums, of their names and labels and of their contents.

    The name of a file is its path in the split, so that the folder may move. Contents are the sizes of all files and the
    ends of up to READ_FILES of them; arrays are taken whole. Raises UserError for a file that cannot be read.
    """
    return {split.name: _split_facts(split) for split in (dataset.train, dataset.val, dataset.test) if split}


def differences(saved, ours):
    """What of a training state, a dict, contradicts the Fingerprint of this run: a list of clauses with both values."""
    theirs = _choices(saved)
    changed = {name: (theirs[name], value) for name, value in ours.choices.items() if name in theirs}
    if saved.get("machine", ours.machine)["processes"] != ours.machine["processes"]:
        for name in ("batch_size", "accumulation"):  # so that a step can take as many images as before
            changed.pop(name, None)
    changed = {name: values for name, values in changed.items() if not _allowed(name, *values)}
    clauses = [f"{name} was {then} in that run and is {now} now" for name, (then, now) in changed.items()]
    if "data" in saved and not {"classes", "val_fraction"} & changed.keys():  # of which other splits would only follow
        splits = ["train", "val"] + ["test"] * ("test" in saved["data"] and "test" in ours.data)  # which may stay unread
        clauses += [clause for split in splits for clause in _split_differences(split, saved["data"], ours.data)]
    return clauses


def notices(saved, path, ours):
    """Sentences on what differs and may: the run goes on, but not bit by bit as it would have."""
    if "data" not in saved:
        return [
            f"{path} is of an older version, which did not record the data and most options: give those of that run, "
            "as nothing can compare them"
        ]
    return [
        f"{name} was {saved['machine'].get(name)} in that run and is {now} now: it goes on, but not bit by bit as it would have"
        for name, now in ours.machine.items()
        if saved["machine"].get(name) != now
    ]


def _choices(saved):
    """What a training state says of options and model; what an option was that came later than the state is its default."""
    choices = {name.removeprefix("--"): value for name, value in saved["choices"].items()}  # as older versions wrote them
    if "data" in saved:
        defaults = {field.name: getattr(TrainOptions(), field.name) for field in dataclasses.fields(TrainOptions)}
        return defaults | choices
    card = ModelCard.from_dict(saved["card"])
    return choices | _model_facts(card) | {"precision": card.training.get("precision")}


def _allowed(name, then, now):
    undecided = name == "precision" and now == "auto"  # this run takes what that one took
    return then == now or undecided or (CHANGES.get(name) == GROWS and now >= then)


def _model_facts(card):
    names = ("image_size", "resize_size", "interpolation", "mean", "std", "norm_type", "classes")
    return {"model": card.architecture} | {name: getattr(card, name) for name in names}


def _split_differences(split, theirs, ours):
    then, now = theirs.get(split, {"images": 0}), ours.get(split, {"images": 0})
    if then["images"] != now["images"]:
        return [f"{split} had {plural(then['images'], 'image')} in that run and has {now['images']:,} now"]
    return [
        f"the {what} of the {split} images were others (checksum {then[what][:8]} in that run, {now[what][:8]} now)"
        for what in now
        if then[what] != now[what]
    ]


def _split_facts(split):
    names, contents = hashlib.sha256(), hashlib.sha256()
    names.update(split.labels.tobytes())
    if split.paths is None:
        contents.update(str((split.arrays.shape, split.arrays.dtype)).encode() + split.arrays.tobytes())
    else:
        for name in split.names():
            names.update(os.fsencode(name) + b"\0")
        _add_files(contents, split.paths)
    return {"images": len(split), "names and labels": names.hexdigest(), "contents": contents.hexdigest()}


def _add_files(digest, places):
    every = -(-len(places) // READ_FILES)
    for number, place in enumerate(places):
        try:
            digest.update(b"%d " % size_of(place))
            if number % every == 0:
                digest.update(tail_of(place, READ_BYTES))
        except OSError as error:
            raise UserError(f"{place} cannot be read ({error.strerror})") from None
