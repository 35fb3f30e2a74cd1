"""Crafted `last.pth` files: a resumed run refuses them in a sentence or trains on, and never ends in a traceback."""

import copy
import functools
import json
import math
import random

import pytest
import torch

from models.checkpoint import read_checkpoint, save_checkpoint
from utils.core.errors import UserError
from utils.training.build import build_trainer
from utils.training.checks import LATER, NEWEST, PARTS, check_parts
from utils.training.options import TrainOptions

OPTIONS = {"dataset": "digits", "model": "custom", "image_size": 8, "batch_size": 512, "val_fraction": 0.8, "ema": True,
           "precision": "fp32", "num_workers": 0}  # fmt: skip
ODD = {
    "nothing": None,
    "true": True,
    "number": 3,
    "less than zero": -1,
    "not a number": math.nan,
    "text": "text",
    "list": [1, 2],
    "empty list": [],
    "dict": {"a": 1},
    "empty dict": {},
    "tensor": torch.zeros(3),
    "bytes of a tensor": torch.zeros(5056, dtype=torch.uint8),
    "weights": {"a": torch.zeros(2)},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The path of the last.pth of one epoch, and its contents."""
    folder = tmp_path_factory.mktemp("run")
    build_trainer(TrainOptions(**OPTIONS, max_epoch=1, path_to_save=str(folder)), torch.device("cpu")).fit()
    path = next(folder.rglob("last.pth"))
    return path, read_checkpoint(path)


def put(*keys, value):
    """A change of one value deep in a state."""

    def change(state):
        *outer, last = keys
        functools.reduce(lambda part, key: part[key], outer, state)[last] = value

    return change


def moment(name, value):
    """Something else for an entry of the optimizer's state of its first parameter."""
    return put("optimizer", "state", 0, name, value=value)


def numpy_state(place, value):
    return put("rng", 0, "numpy", place, value=value)


LONG = torch.full((624,), 7, dtype=torch.int64)
STREAM = {"images": 4, "round": 0, "chunks": [1], "last": 0, "left": 2}
CRAFTED = {
    "a stream of a number": put("stream", value=3),
    "a stream at no number": put("stream", value=[STREAM | {"left": "2"}]),
    "a stream at a worker too many": put("stream", value=[STREAM | {"last": 1}]),
    "a stream with another part": put("stream", value=[STREAM | {"more": 1}]),
    "torch random state of zeros": put("rng", 0, "torch", value=torch.zeros(5056, dtype=torch.uint8)),
    "torch random state of ones": put("rng", 0, "torch", value=torch.full((5056,), 255, dtype=torch.uint8)),
    "torch random state too short": put("rng", 0, "torch", value=torch.zeros(9, dtype=torch.uint8)),
    "torch random state of floats": put("rng", 0, "torch", value=torch.zeros(5056)),
    "torch random state of axes": put("rng", 0, "torch", value=torch.zeros(5056, 1, dtype=torch.uint8)),
    "numpy position": numpy_state(2, 10**9),
    "numpy position below": numpy_state(2, -5),
    "numpy words": numpy_state(1, LONG[:10]),
    "numpy words of floats": numpy_state(1, LONG.double()),
    "numpy generator": numpy_state(0, "PCG64"),
    "numpy gauss": numpy_state(4, "x"),
    "python words": put("rng", 0, "python", value=[2**40] * 625),
    "python position": put("rng", 0, "python", value=[1] * 624 + [10**6]),
    "python too short": put("rng", 0, "python", value=[1] * 3),
    "cuda random state": put("rng", 0, "cuda", value=[3]),
    "moment of another shape": moment("exp_avg", torch.zeros(1)),
    "moment of no shape": moment("exp_avg_sq", torch.tensor(1.0)),
    "moment that overlaps": moment("exp_avg", torch.zeros(1).expand(16, 3, 3, 3)),
    "moment of another kind": moment("exp_avg", torch.zeros(16, 3, 3, 3, dtype=torch.int32)),
    "sparse moment": moment("exp_avg", torch.zeros(16, 3, 3, 3).to_sparse()),
    "no moment": moment("exp_avg", None),
    "moment as text": moment("exp_avg", "text"),
    "step of three": moment("step", torch.zeros(3)),
    "step as text": moment("step", "3"),
    "moment too many": moment("max_exp_avg_sq", torch.zeros(16, 3, 3, 3)),
    "state of no parameter": put("optimizer", "state", 99, value={}),
    "state by name": put("optimizer", "state", "a", value={}),
    "empty state of a parameter": put("optimizer", "state", 0, value={}),
    "learning rate": put("optimizer", "param_groups", 0, "lr", value="fast"),
    "betas": put("optimizer", "param_groups", 0, "betas", value=None),
    "amsgrad": put("optimizer", "param_groups", 0, "amsgrad", value=True),
    "parameters": put("optimizer", "param_groups", 0, "params", value=[7]),
    "seconds of a number": put("seconds", value=3.0),
    "seconds as text": put("seconds", "total", value="3"),
    "seconds of something else": put("seconds", "sleeping", value=3.0),
    "scaler": put("scaler", value={"scale": 1.0}),
    "weight of another shape": put("model", "layer1.0.weight", value=torch.zeros(3)),
    "weight that is text": put("model", "layer1.0.weight", value="text"),
    "complex weight": put("model", "layer1.0.weight", value=torch.zeros(16, 3, 3, 3, dtype=torch.complex64)),
    "weight too many": put("model", "layer9.0.weight", value=torch.zeros(3)),
    "average of another shape": put("ema", "model", "layer1.0.weight", value=torch.zeros(3)),
    "decay": put("ema", "decay", value=7.0),
    "updates": put("ema", "updates", value=-3),
    "group": put("group", value=10**6),
    "history without scores": put("history", value=[{"epoch": 1}]),
    "history of text": put("history", 0, "train", "loss", value="low"),
    "history of no numbers": put("history", 0, "train", "loss", value=math.nan),
    "best without scores": put("best", "val", value={"loss": 1}),
    "totals": put("totals", value=torch.zeros(3)),
    "totals of no process": put("totals", value=torch.zeros(0, 4, dtype=torch.float64)),
    "random states of no process": put("rng", value=[]),
    "card": put("card", "architecture", value="../../x"),
    "card of other classes": put("card", "classes", value=["a"]),
    "choices": put("choices", "ema", value=torch.zeros(2)),
    "batches": put("batches", value=[0, 0, 0]),
    "card without a precision": put("card", "training", value={}),
    "choice of another kind": put("choices", "max_epoch", value="many"),
    "processes": put("machine", "processes", value="two"),
    "no data of a split": put("data", "train", value={}),
    "checksum": put("data", "train", "contents", value=3),
}


def changes():
    """{name: change of a state in place}: each part as something else or missing, and the CRAFTED ones."""
    found = {f"{part}: {name}": put(part, value=value) for part in PARTS for name, value in ODD.items()}
    found |= {f"without {part}": without(part) for part in PARTS}
    return found | CRAFTED


def without(part):
    return lambda state: state.pop(part)


def crafted(state):
    """{name: state} for every change."""
    made = {}
    for name, change in changes().items():
        made[name] = copy.deepcopy(state)
        change(made[name])
    return made


def test_what_training_writes_passes(whole):
    path, state = whole
    check_parts(state, path)


def test_parts_of_another_kind_are_named(whole):
    for part in PARTS.keys() - LATER - NEWEST:
        state = dict(whole[1])
        del state[part]
        with pytest.raises(UserError, match=f"{part} is missing"):
            check_parts(state, "last.pth")
        refused = 0
        for value in ODD.values():
            try:
                check_parts(whole[1] | {part: value}, "last.pth")
            except UserError as error:
                assert f"last.pth is no training state to go on with: {part} must be" in str(error) or part == "card"
                refused += 1
        assert refused >= 5


QUICK = ("torch random state of ones", "numpy position", "moment of another shape", "group", "weight of another shape")


@pytest.mark.parametrize("name", QUICK)
def test_what_ended_the_process_is_a_sentence(name, whole, tmp_path):
    state = copy.deepcopy(whole[1])
    CRAFTED[name](state)
    save_checkpoint(tmp_path / "last.pth", state)
    options = TrainOptions(**OPTIONS, max_epoch=2, path_to_save=str(tmp_path), resume=str(tmp_path / "last.pth"))
    with pytest.raises(UserError, match=r"last\.pth"):
        build_trainer(options, torch.device("cpu"))


def test_what_a_file_says_of_the_optimizer_is_not_believed(whole, tmp_path):
    state = copy.deepcopy(whole[1])
    for key, value in {"lr": "fast", "betas": None, "amsgrad": True, "params": [7]}.items():
        state["optimizer"]["param_groups"][0][key] = value
    save_checkpoint(tmp_path / "last.pth", state)
    options = TrainOptions(**OPTIONS, max_epoch=1, path_to_save=str(tmp_path), resume=str(tmp_path / "last.pth"))
    trainer = build_trainer(options, torch.device("cpu"))
    assert trainer.state.optimizer.param_groups[0]["betas"] == (options.momentum, 0.999)


@pytest.mark.faults
def test_through_a_run(whole, ask, tmp_path):
    """Each goes on for an epoch, where it is not refused; the answers of a run are its exit status."""
    states = crafted(whole[1])
    some = [name for name in states if name in CRAFTED] + random.Random(0).sample(sorted(states), 60)
    paths = {}
    for number, name in enumerate(dict.fromkeys(some)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_checkpoint(folder / "last.pth", states[name])
        options = OPTIONS | {"max_epoch": 2, "path_to_save": str(folder)}
        (folder / "options.json").write_text(json.dumps(options))
        paths[name] = folder / "last.pth"
    assert len(paths) > 60
    answered, refused = ask("state", paths.values())
    assert set(answered.values()) == {0} and len(refused) > len(answered) > 3
