"""The effective receptive field: the pixels that a unit really answers to."""

import math

import torch
from torch.utils._pytree import tree_leaves

from utils.core.errors import UserError
from utils.receptive_field.inspecting import inspecting

CANCELLED = 1e-3  # of the heat with random signs; under it the sum's heat is rounding, as behind a LayerNorm of unit weights
SIGNS = "the channels are summed with random signs, as their plain sum does not depend on the image"


def effective_field(model, layer, images, batch_size=16, dims=(2, 3)):
    """The field that a network uses: `(heat, unit, note)` of the unit in the middle of a layer's output.

    heat: float64 (H, W), for each pixel the absolute derivative of the unit (of the sum of its channels), summed over
    colours and averaged over `images`, float32 (N, 3, H, W); its sum is 1. unit: (row, column), or None for a layer that
    has no map; `dims` are the dimensions of the output that hold rows and columns, as of `Field`. Where the sum of the
    channels is constant, as behind a LayerNorm, they are summed with fixed random signs, and note is a sentence that says so;
    else it is "". Of an output of several tensors the first is taken. Raises UserError for a layer that does not depend on the
    image. Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    NeurIPS 2016.
    """
    kept = {}
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.update(out=_first(output)))
    heats = {"": 0, SIGNS: 0}
    try:
        with inspecting(model):
            for batch in images.split(batch_size):
                batch = batch.clone().requires_grad_()
                model(batch)
                found, unit = _heats(kept.pop("out"), batch, layer, dims, heats)
                heats = {note: heat + found[note] for note, heat in heats.items()}
                if SIGNS in heats and heats[""].sum() > CANCELLED * heats[SIGNS].sum():
                    heats = {"": heats[""]}  # the sum will do
    finally:
        handle.remove()
    note, heat = list(heats.items())[-1]
    if not heat.any():
        raise UserError(f"{layer} answers to no pixel of these images, so it has no effective field", option="layer")
    return heat / heat.sum(), unit, note


def _first(output):
    """The first tensor of a module's output, as it is now; None for one that holds none."""
    return next((leaf.clone() for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)), None)


def _heats(out, batch, layer, dims, notes):
    """`({note: heat}, unit)` of one batch; its graph is freed on return, before the next one is built."""
    answer, unit = _middle(out, layer, dims)
    return {note: _heat(answer * _signs(answer) if note else answer, batch) for note in notes}, unit


def _middle(out, layer, dims):
    """`(answer, unit)`: what the middle unit of an output (N, …) holds, all of it and None where there is no map."""
    if out is None or not out.requires_grad:
        raise UserError(f"the output of {layer} does not depend on the image", option="layer")
    if None in dims or max(dims) >= out.dim():
        return out, None
    unit = tuple(out.shape[d] // 2 for d in dims)
    (first, row), (second, column) = sorted(zip(dims, unit, strict=True))
    return out.select(second, column).select(first, row), unit


def _signs(answer):
    """1 or −1 for each channel, the same at every call."""
    signs = torch.randint(2, answer.shape[1:], generator=torch.Generator().manual_seed(0))
    return (2 * signs - 1).to(answer)


def _heat(answer, batch):
    """Absolute derivative of all of `answer` by each pixel (H, W), summed over images and colours."""
    (gradient,) = torch.autograd.grad(answer.sum(), batch, retain_graph=True)
    return gradient.abs().sum((0, 1)).double().cpu()


def effective_size(heat):
    """Side, in pixels, of the square as large as the area whose heat exceeds 4.55 % of the greatest (Luo et al. 2016)."""
    return math.sqrt(int((heat > (1 - 0.9545) * heat.max()).sum()))
