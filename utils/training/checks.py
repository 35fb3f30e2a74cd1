"""Whether a `last.pth` holds what a run can go on with: its parts by type, and their shapes by the run that takes them.

torch and NumPy trust what they are given: a random state of the wrong kind ends the process, an average of the wrong shape is
a traceback an hour later.
"""

import dataclasses
import functools

import torch
from torch import nn

from models.checkpoint import are_weights, load_strictly
from utils.core.card import ModelCard, is_plain
from utils.core.errors import UserError
from utils.training.loop import Clock
from utils.training.optim import build_optimizer
from utils.training.options import TrainOptions

SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def check_parts(saved, path):
    """Raise UserError, naming the part, where a training state that was read from `path` has not the types of PARTS."""
    for name, (is_right, must_be) in PARTS.items():
        if name not in {*saved, *NEWEST} and (name not in LATER or saved.keys() & LATER):
            raise _unusable(path, f"{name} is missing")
        if name in saved and not is_right(saved[name]):
            raise _unusable(path, f"{name} must be {must_be}")
    ModelCard.from_dict(saved["card"], path)


def check_fit(saved, state, options, plan, steps, path):
    """Raise UserError where a training state that passed `check_parts` does not fit the TrainState of a run.

    `options` are the TrainOptions of the run, `plan` its BatchPlan, `steps` the optimizer steps of its epoch.
    """
    load_strictly(state.model, saved["model"], path, options.model, only_check=True)
    if bool(saved["ema"]) != bool(state.ema):
        raise _unusable(path, "ema must be there if, and only if, the run has one")
    if state.ema:
        load_strictly(state.ema.model, saved["ema"]["model"], path, options.model, only_check=True)
    if saved["group"] >= steps and saved["batches"] == plan.kept:
        raise _unusable(path, f"group must be below the {steps} steps of an epoch")
    parameters = [(tuple(one.shape), group["decays"]) for group in state.optimizer.param_groups for one in group["params"]]
    like = functools.cache(functools.partial(_state_of, options))
    for index, moments in saved["optimizer"]["state"].items():
        if index >= len(parameters) or not _are_moments(moments, like(*parameters[index])):
            raise _unusable(path, f"the optimizer's state {index} must be that of a parameter of the model")


def _unusable(path, fault):
    return UserError(f"{path} is no training state to go on with: {fault}", option="resume")


def _state_of(options, shape, decays):
    """What the optimizer of a run keeps for a parameter of `shape`, which decays or not."""
    parameter = nn.Parameter(torch.zeros(shape))
    probe = nn.ParameterDict({"weight" if decays else "other": parameter})
    optimizer = build_optimizer(options.optimizer, probe, 1e-3, options.weight_decay, options.momentum)
    parameter.grad = torch.zeros(shape)
    optimizer.step()
    return dict(optimizer.state[parameter])


def _are_moments(moments, like):
    """Whether what is kept for a weight has the entries of `like`, and their shapes."""
    return moments.keys() == like.keys() and all(_is_moment(moments[name], example) for name, example in like.items())


def _is_moment(value, example):
    if not isinstance(value, torch.Tensor) or not isinstance(example, torch.Tensor):
        return not isinstance(value, torch.Tensor) and not isinstance(example, torch.Tensor)
    return value.dtype == example.dtype and value.shape == example.shape and _is_written_once(value)


def _is_written_once(value):
    """Whether no two elements share their memory, which the fused optimizers write to."""
    formats = [torch.contiguous_format] + [torch.channels_last] * (value.ndim == 4)
    return any(value.is_contiguous(memory_format=format) for format in formats)


def _is_count(value, most=1 << 53):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _is_average(value):
    keys = {"model", "updates", "decay"}
    return value is None or (
        isinstance(value, dict)
        and keys <= value.keys()
        and are_weights(value["model"])
        and _is_count(value["updates"])
        and isinstance(value["decay"], float)
        and 0 <= value["decay"] <= 1
    )


def _is_optimizer(value):
    state = value.get("state") if isinstance(value, dict) else None
    return isinstance(state, dict) and all(
        _is_count(index)
        and isinstance(moments, dict)
        and all(is_plain(item) or are_weights({name: item}) for name, item in moments.items())
        for index, moments in state.items()
    )


def _is_scaler(value):
    return is_plain(value) and (value == {} or (isinstance(value, dict) and value.keys() == SCALER))


def _are_scores(value):
    return isinstance(value, dict) and is_plain(value) and {"loss", "Acc@1"} <= value.keys() and _are_numbers(value.values())


def _are_numbers(values):
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_best(value):
    if value == {}:
        return True
    there = isinstance(value, dict) and is_plain(value) and _is_count(value.get("epoch"))
    return there and (value.get("val") is None or _are_scores(value["val"]))


def _is_record(value):
    numbers = ("lr", "images/s", "seconds")
    return (
        isinstance(value, dict)
        and is_plain(value)
        and _is_count(value.get("epoch"))
        and _are_numbers(value.get(name) for name in numbers)
        and _are_scores(value.get("train"))
        and ("val" not in value or _are_scores(value["val"]))
    )


def _are_seconds(value):
    names = {field.name for field in dataclasses.fields(Clock)} | {"total", "epoch"}
    return value == {} or (isinstance(value, dict) and value.keys() == names and _are_numbers(value.values()))


def _is_tensor(value, dtype, shape=None):
    """A dense tensor with one axis, of `shape` where that is given."""
    return are_weights({"": value}) and value.dtype == dtype and value.ndim == 1 and shape in (None, tuple(value.shape))


def _are_totals(value):
    """Four sums, or as many rows of four."""
    return (
        are_weights({"": value})
        and value.dtype == torch.float64
        and value.ndim in (1, 2)
        and value.shape[-1] == 4
        and len(value)
    )


def _are_positions(value):
    """How far each process came in its shards: values of utils.data.streams.Position."""
    counts = {"images", "round", "last", "left"}
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and item.keys() == counts | {"chunks"}
        and all(_is_count(item[name]) for name in counts)
        and isinstance(item["chunks"], list)
        and all(map(_is_count, item["chunks"]))
        and item["last"] < len(item["chunks"])
        for item in value
    )


def _are_random_states(value):
    """Of each process, or as older versions wrote it, of the first."""
    return all(map(_is_random_state, value)) and len(value) > 0 if isinstance(value, list) else _is_random_state(value)


def _is_random_state(value):
    if not isinstance(value, dict) or not {"torch", "cuda", "numpy", "python"} <= value.keys():
        return False
    of_cuda = isinstance(value["cuda"], list) and all(_suits_torch(item, "cuda") for item in value["cuda"])
    return of_cuda and _suits_torch(value["torch"], "cpu") and _is_numpy(value["numpy"]) and _is_python(value["python"])


def _suits_torch(value, device):
    """Whether a generator on "cpu" or "cuda" takes the state; where there is no CUDA, none is set."""
    if not _is_tensor(value, torch.uint8):
        return False
    try:
        if device == "cpu" or torch.cuda.is_available():
            torch.Generator(device).set_state(value)
    except (RuntimeError, TypeError):
        return False
    return True


def _is_numpy(value):
    """`["MT19937", 624 words, position, has_gauss, cached]`"""
    if not isinstance(value, list | tuple) or len(value) != 5:
        return False
    kind, words, *rest = value
    is_generator = isinstance(kind, str) and kind == "MT19937" and _is_tensor(words, torch.int64, (624,))
    return is_generator and _is_count(rest[0], 625) and _is_count(rest[1], 2) and is_plain(rest[2]) and _are_numbers(rest[2:])


def _is_python(value):
    """624 words and a position."""
    words = isinstance(value, list) and len(value) == 625 and all(_is_count(word, 1 << 32) for word in value)
    return words and value[-1] <= 624


def _are_choices(value):
    """Plain values by name; those that are numbers in TrainOptions are numbers or None."""
    if not isinstance(value, dict) or not is_plain(value):
        return False
    numbers = {field.name for field in dataclasses.fields(TrainOptions) if type(field.default) in (int, float)}
    return _are_numbers(value[name] for name in numbers & value.keys() if value[name] is not None)


def _are_data(value):
    """Count and checksums of each split."""
    keys = {"images", "names and labels", "contents"}
    return is_plain(value) and isinstance(value, dict) and all(
        isinstance(split, dict) and split.keys() >= keys and _is_count(split["images"])
        and all(isinstance(split[key], str) for key in split.keys() - {"images"})
        for split in value.values()
    )  # fmt: skip


def _is_machine(value):
    return is_plain(value) and isinstance(value, dict) and _is_count(value.get("processes"))


def _is_card(value):
    """A dict with the precision of the run; what else is in it is checked as in every card."""
    training = value.get("training") if isinstance(value, dict) else None
    return isinstance(training, dict) and training.get("precision", "fp32") in ("fp32", "bf16", "fp16")


def _are_batches(value):
    return isinstance(value, list) and len(value) == 3 and all(_is_count(item) and item for item in value)


NEWEST = {"stream", "seconds"}  # parts that need not be there
LATER = {"data", "machine"}  # parts that older versions did not write, neither of them
PARTS = {  # of a training state: (what it must pass, the same in words)
    "model": (are_weights, "weights by name"),
    "ema": (_is_average, "nothing, or averaged weights with their decay"),
    "optimizer": (_is_optimizer, "what an optimizer keeps for each parameter"),
    "scaler": (_is_scaler, "what a gradient scaler keeps"),
    "epoch": (_is_count, "a count"),
    "group": (_is_count, "a count"),
    "step": (_is_count, "a count"),
    "best": (_is_best, "an epoch with its scores"),
    "history": (lambda value: isinstance(value, list) and all(map(_is_record, value)), "a list of epochs with their scores"),
    "seconds": (_are_seconds, "seconds by what they went into"),
    "totals": (lambda value: value is None or _are_totals(value), "nothing, or four sums of each process"),
    "stream": (lambda value: value is None or _are_positions(value), "nothing, or how far each process came in its shards"),
    "rng": (_are_random_states, "the states of four random generators of each process"),
    "card": (_is_card, "a model card, with the precision of the run"),
    "choices": (_are_choices, "choices by name"),
    "batches": (_are_batches, "three counts: how the images of an epoch were divided"),
    "data": (_are_data, "counts and checksums of the splits"),
    "machine": (_is_machine, "facts by name, with the number of processes"),
}
