"""The effective receptive field: the pixels that a unit really answers to."""

import math

import torch

from utils.receptive_field.inspecting import inspecting


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
