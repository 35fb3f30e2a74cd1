"""What the checkpoints of others hold, and how the weights in them are called: one table of containers, one of prefixes."""

import argparse
import pathlib

import torch
from torch import nn

from utils.core.card import CARD_KEY, ModelCard
from utils.core.errors import UserError
from utils.core.integrity import ROOM, is_safetensors

HOLDERS = {  # key under which a container has its weights: who writes it. The first that is not empty counts, also inside of it
    "state_dict_ema": "timm, averaged",
    "model_ema": "torchvision's references, averaged",
    "model": "this toolkit and torchvision's references",
    "state_dict": "timm, Lightning, MMCV",
    "model_state_dict": "PyTorch's tutorials",
    "net": "many a script",
    "network": "many a script",
    "weights": "many a script",
    "params_ema": "BasicSR, averaged",
    "params": "BasicSR",
}
PREFIXES = ("module.", "model.", "net.", "network.", "backbone.")  # of all names: DataParallel, Lightning, many a script
COMPILED = "_orig_mod."  # torch.compile puts it before the names of what it compiled, wherever that is
MEAN = ".running_mean"  # of a BatchNorm
COUNTS = ("n_averaged",)  # no weights: of torch.optim.swa_utils.AveragedModel
DEPTH = 4  # containers in each other
HARMLESS = [argparse.Namespace]  # classes of objects that hold settings, which are passed over: timm's checkpoints have one


def are_weights(value):
    """Whether `value` is a state_dict: dense tensors on the CPU, of real numbers, by name."""
    return isinstance(value, dict) and all(isinstance(key, str) and _is_dense(item) for key, item in value.items())


def _is_dense(value):
    is_tensor = type(value) in (torch.Tensor, nn.Parameter) and value.device.type == "cpu"
    return is_tensor and value.layout == torch.strided and not (value.is_quantized or value.is_complex())


def find_weights(contents):
    """The state_dict in what a file of somebody else holds, with plain names; None where there is none."""
    for _ in range(DEPTH):
        if are_weights(contents) and contents:
            return plain_names(contents)
        if not isinstance(contents, dict):
            return None
        inside = (contents.get(key) for key in HOLDERS)
        contents = next((value for value in inside if isinstance(value, dict) and value), None)  # an average may be empty
    return None


def plain_names(state):
    """A state_dict without what wrappers put before the names of all its weights, as `module._orig_mod.`."""
    state = {key.replace(COMPILED, ""): value for key, value in state.items() if key not in COUNTS}
    while state and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state | {key: torch.tensor(0) for key in _counters(state) if key not in state}


def _counters(state):
    """The counters of batches that belong to running averages; files from before torch 0.4.1 lack them."""
    return [f"{key.removesuffix(MEAN)}.num_batches_tracked" for key in state if key.endswith(MEAN)]


def read_file(path):
    """What is in a file of weights, on the CPU: a dict for `.safetensors`, for all others whatever was saved.

    No code in it is run. Raises what the readers raise: see `models.checkpoint.read_checkpoint`.
    """
    if is_safetensors(path) or pathlib.Path(path).suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    with torch.serialization.safe_globals(HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open  # not above: few files are

    try:
        with safe_open(path, "pt") as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({str(error).splitlines()[0]})") from None
    card = metadata.get(CARD_KEY)
    return {"model": state} | ({"card": ModelCard.from_json(card, path).to_dict()} if card else {})


def to_safetensors(state, card):
    """A state_dict and its ModelCard as the bytes of a `.safetensors` file, with room for its seal."""
    from safetensors.torch import save

    metadata = {"format": "pt", CARD_KEY: card.to_json(), ROOM[0]: ROOM[1]}
    return save({name: value.detach().contiguous().clone() for name, value in state.items()}, metadata)
