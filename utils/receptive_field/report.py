"""Theoretical receptive fields of a network's layers: by analysis of its exported graph, and by gradient.

A field is kept per axis as a `Span`: unit i of a layer's output sees the pixels `start + i·jump` to `end + i·jump` of the
input, and no others. Pixels count from 0 at the top left; a start under 0 lies in the padding. The relations are those of
Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.

What both methods take as given:

* The field is that of the architecture: weights that happen to be zero do not shrink it.
* Where branches meet, the field is the smallest interval that holds theirs.
* It is global (infinite) where a unit sees the whole image whatever its size: behind a global pooling, a squeeze-excite
  gate, a linear layer over a flattened map, attention.
* An adaptive pooling is the fixed pooling that it amounts to at the given image size; one whose windows differ in width
  there has no fixed field and counts as global.
* Normalisation is taken as local. That is exact for BatchNorm at inference and for LayerNorm over channels; GroupNorm,
  InstanceNorm and LayerNorm over the map take statistics of the whole map, which the notes then say.
"""

import math

import torch

from utils.receptive_field.analytic import analytic_fields
from utils.receptive_field.spans import inspecting


def calculate_RF(layers):
    """Receptive field, in pixels, at the end of a plain chain of layers, given as (kernel, stride) pairs from the input on.

    r = 1 + Σ (k_l − 1) · Π_{i<l} s_i: each layer adds its kernel's reach, counted in the jump that the layers *before* it
    have built up. Padding does not matter, a dilated kernel counts as k' = dilation · (k − 1) + 1. For branches, and for
    start and centre, see `receptive_fields`. Raises ValueError for a kernel or stride under 1.
    Source: Araujo et al., Distill 2019, eq. 2.

    >>> calculate_RF([(3, 1), (2, 2), (3, 1), (2, 2), (3, 1), (2, 2)])
    22
    """
    size, jump = 1, 1
    for kernel, stride in layers:
        _positive(kernel=kernel, stride=stride)
        size += (kernel - 1) * jump
        jump *= stride
    return size


def get_receptive_field(kernel_size, stride, dilation):
    """Reach, in pixels, of one layer's kernel by an older convention: k' + (k' − 1)(stride − 1), k' the dilated kernel.

    k' = dilation · (kernel_size − 1) + 1 taps that stand `stride` pixels apart reach over that many pixels; it is what a k'
    kernel sees when it *follows* a layer of that stride. A layer's own stride does not enlarge the field of its own output,
    which is k' alone: for that, and for whole networks, use `receptive_fields` (any model) or `calculate_RF` (a chain).
    Raises ValueError for an argument under 1.

    >>> [get_receptive_field(*layer) for layer in ((3, 1, 1), (5, 1, 1), (5, 2, 1), (5, 2, 2))]
    [3, 5, 9, 17]
    """
    _positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
    kernel = dilation * (kernel_size - 1) + 1
    return kernel + (kernel - 1) * (stride - 1)


def _positive(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")


def receptive_fields(model, image_size):
    """Field of every layer: {name as in `model.named_modules()`: Field}, in the order of execution, by graph analysis.

    `model` takes (1, 3, image_size, image_size) and is left as it was. A module called more than once has the field of its
    last call; modules that compute nothing at inference (Identity, StochasticDepth) are left out. Raises UserError for a
    model that torch.export refuses.
    """
    return analytic_fields(model, image_size)[0]


def compare(analytic, gradient):
    """Where two results contradict each other, one sentence a layer and axis; layers that only one knows are left out."""
    faults = []
    for name in analytic:
        for axis in ("height", "width") if name in gradient else ():
            a, g = getattr(analytic[name], axis), getattr(gradient[name], axis)
            agree = a.size >= g.size if g.capped else (a.start, a.end, a.jump) == (g.start, g.end, g.jump)
            if not agree:
                faults.append(f"{name}, {axis}: {_words(a)} by analysis, {_words(g)} by gradient")
    return faults


def _words(span):
    size = f"≥ {span.size}" if span.capped else span.size
    return f"size {size}, jump {span.jump}, start {span.start}"


def effective_field(model, layer, images, batch_size=16):
    """The field that a network uses: `(heat, unit)` of the unit in the middle of a layer's output.

    heat: float64 (H, W), for each pixel the absolute derivative of the unit (of the sum of its channels), summed over
    colours and averaged over `images`, float32 (N, 3, H, W); its sum is 1. unit: (row, column), or None for a layer that
    has no map. Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    NeurIPS 2016.
    """
    kept = {}
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, inputs, output: kept.update(out=output.clone()))
    heat = torch.zeros(images.shape[-2:], dtype=torch.float64)
    try:
        with inspecting(model):
            for batch in images.split(batch_size):
                batch = batch.clone().requires_grad_()
                model(batch)
                out = kept.pop("out")
                unit = (out.shape[2] // 2, out.shape[3] // 2) if out.dim() == 4 else None
                answer = out if unit is None else out[:, :, unit[0], unit[1]]
                (gradient,) = torch.autograd.grad(answer.sum(), batch)
                heat += gradient.abs().sum((0, 1)).double().cpu()
    finally:
        handle.remove()
    return heat / heat.sum().clamp_min(1e-300), unit


def effective_size(heat):
    """Side, in pixels, of the square as large as the area whose heat exceeds 4.55 % of the greatest (Luo et al. 2016)."""
    return math.sqrt(int((heat > (1 - 0.9545) * heat.max()).sum()))
