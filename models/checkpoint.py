"""Write and read checkpoints; reading runs no code that a file may carry."""

import contextlib
import io
import os
import pickle
import re
from collections import OrderedDict

import torch

from models.build import build_model, default_size, own_names
from models.containers import HOLDERS, are_weights, find_weights, read_file
from models.half import with_half_weights
from models.without_card import card_of_hub, card_of_weights, mismatch, not_those_of
from utils.core.card import ModelCard, same_network
from utils.core.errors import UserError
from utils.core.files import write_bytes
from utils.core.inputs import absent
from utils.core.integrity import sealed, verify

CUT_OFF = "PytorchStreamReader failed reading zip archive"  # how torch begins what it says of an archive without its end
ONNX_START = b"\x08"  # the tag of the first field, `ir_version`
LARGE_IMAGE, MANY_CLASSES = 512, 10_000  # px and outputs; up to these, no network of ours takes more memory than others do


def save_checkpoint(path, contents, keep=None):
    """Write a dict of tensors and plain values to `path`; after a crash the old file is still there.

    After success it is gone, or with `keep` has that path.
    """
    buffer = io.BytesIO()  # torch's own writer ends in a RuntimeError where the disk is full
    torch.save(contents, buffer)
    write_bytes(path, sealed(buffer.getvalue()), keep)


def read_checkpoint(path):
    """The dict in `path`, on the CPU; what others save, and a raw state_dict, comes back as `{"model": state_dict}`.

    Raises UserError for a file that is missing, unreadable, holds pickled code, or holds no weights.
    """
    try:
        verify(path)
        contents = read_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} {absent(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name the .pth file in it") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UserError(
                f"{path} carries pickled code ({code[1]}), which is never run; save the weights alone: model.state_dict()"
            ) from None
        raise _no_checkpoint(path) from None
    except (EOFError, ValueError, LookupError, AttributeError):  # the reader raises these for bytes that mean nothing
        raise _no_checkpoint(path) from None
    except (RuntimeError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _no_checkpoint(path, reason) from None
    is_ours = isinstance(contents, dict) and ("card" in contents or "choices" in contents)
    weights = contents.get("model") if is_ours else find_weights(contents)
    if not are_weights(weights) or not weights:  # in this order: a tensor is neither true nor false
        known = ", ".join(HOLDERS)
        raise UserError(f"{path} holds no weights: known are a state_dict alone, or under one of {known}")
    return contents if is_ours else {"model": weights}


def _no_checkpoint(path, reason=""):
    """The UserError for a file that torch does not read, for the `reason` that it gives."""
    with contextlib.suppress(OSError):
        if not os.path.getsize(path):
            return UserError(f"{path} is empty")
        with open(path, "rb") as file:
            if file.read(1) == ONNX_START:
                return UserError(f"{path} is not a checkpoint but, as it seems, an ONNX file, which predict.py takes as .onnx")
    if reason.startswith(CUT_OFF):
        return UserError(f"{path} is not a readable checkpoint: it is cut off or damaged; copy or make it again")
    return UserError(f"{path} is not a readable checkpoint{reason and f' ({reason})'}")


def read_weights(path):
    """`(state_dict, ModelCard or None)` of a checkpoint of ours or of others, on the CPU; of a training state, the average."""
    contents = read_checkpoint(path)
    state = _averaged(contents) or contents["model"]
    return state, ModelCard.from_dict(contents["card"], path) if "card" in contents else card_of_hub(path, state)


def load_model(path, model=None, classes=None, image_size=None):
    """Read a checkpoint and return `(network, card)`: the network in eval mode on the CPU, and its model card.

    `model` and `image_size` must agree with the card; `classes` renames its classes. A file without a card needs `model`: see
    `card_of_weights`; `classes` defaults to "0", "1", …. From a training state (`last.pth`) with an EMA comes the EMA, on which
    its scores were measured. Raises UserError for a contradiction, an unknown model, and weights that do not fit.
    """
    state, card = read_weights(path)
    card = _agreed(path, card, model, classes, image_size) if card else card_of_weights(path, state, model, classes, image_size)
    _check_size(card, state, path)
    network = build_model(card.architecture, card.num_classes, card.image_size, card.norm_type)
    if card.needs.get("dtype"):
        network = with_half_weights(network, getattr(torch, card.needs["dtype"]))
    load_strictly(network, state, path, card.architecture)
    return network.eval(), card


def open_network(model=None, weights=None, num_classes=None, image_size=None):
    """`(network, card)` of a checkpoint or, without `weights`, of an architecture with random weights, always the same.

    The network is in eval mode on the CPU; a fresh one has 10 classes and its own image size unless told otherwise. Raises
    UserError for what contradicts the checkpoint, and for a quantized one, whose layers cannot be analysed.
    """
    if weights is None:
        torch.manual_seed(0)
        card = ModelCard(model, [str(i) for i in range(num_classes or 10)], image_size or default_size(model))
        return build_model(model, card.num_classes, card.image_size).eval(), card
    network, card = load_model(weights, model=model, image_size=image_size)
    if num_classes not in (None, card.num_classes):
        raise UserError(f"{num_classes} classes contradict {weights}, which has {card.num_classes}", option="num_classes")
    if card.scheme:
        raise UserError(f"{weights} is quantized ({card.scheme}); give the float checkpoint that it was made from")
    return network, card


def load_strictly(network, state, path, name, only_check=False):
    """Load a state_dict into `network`, or `only_check` it; a mismatch raises UserError that lists the keys and shapes."""
    own, state = network.state_dict(), OrderedDict(own_names(name, state))
    faults = mismatch(own, state)
    if faults:
        raise not_those_of(path, name, faults)
    if not only_check:
        state._metadata = own._metadata  # versions of the layers, which some ask for: what fits is of those of today
        network.load_state_dict(state)


def _averaged(contents):
    """The averaged weights of a training state that has them, else None."""
    average = contents.get("ema") if "choices" in contents else None
    return average["model"] if isinstance(average, dict) and are_weights(average.get("model")) else None


def _check_size(card, state, path):
    """Hold the weights against a large network before it takes memory: how much, the numbers of the card decide."""
    if card.image_size <= LARGE_IMAGE and card.num_classes <= MANY_CLASSES:
        return
    with torch.device("meta"):
        network = build_model(card.architecture, card.num_classes, card.image_size, card.norm_type)
    load_strictly(network, state, path, card.architecture, only_check=True)


def _agreed(path, card, model, classes, image_size):
    """The card, its classes renamed by `classes`, which may be a translation. Raises UserError for a contradiction."""
    model = card.architecture if same_network(model, card.architecture) else model
    given = {"model": (model, card.architecture), "image_size": (image_size, card.image_size)}
    for option, (wanted, own) in given.items():
        if wanted is not None and wanted != own:
            raise UserError(f"{wanted} contradicts the card of {path}, which says {own}; leave it out", option=option)
    try:
        return card.renamed(classes)
    except UserError as error:
        raise UserError(f"the names do not suit {path}: {error}", option="classes") from None
