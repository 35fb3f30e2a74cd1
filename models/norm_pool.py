"""BatchNorm, 2×2 max-pooling and ReLU of a training step in four passes over the memory; the operators of torch take eleven.

Each pass is a function for a compiler that fuses it into one loop. Uncompiled they give the same numbers, slowly.
"""

from typing import NamedTuple

import torch

from models.compiled import wide


def statistics(x):
    """Variance and mean (C,) of x (N, C, H, W)."""
    return torch.var_mean(wide(x), (0, 2, 3), correction=0)


def pool(x, scale, shift):
    """relu(max_pool2d(x · scale + shift, 2)) for even sides: (N, C, H/2, W/2), and of each window which pixel it was.

    That is the pixel of x itself, and its place in the window, 0 to 3 or -1 where ReLU has cut it, both (N, H/2, W/2, C). The
    places have the type of x, so that all vectors of the loop are of one width.
    """
    windows = _windows(x)
    pixels = [windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1)]
    kept, best, place = pixels[0], wide(pixels[0]) * scale + shift, torch.zeros_like(pixels[0])
    for number in (1, 2, 3):
        value = wide(pixels[number]) * scale + shift
        higher = value > best  # of equals the first stays, as in max_pool2d
        best = torch.where(higher, value, best)
        kept = torch.where(higher, pixels[number], kept)
        place = torch.where(higher, number, place)
    place = torch.where(best > 0, place, -1)
    return best.clamp_min(0).to(x.dtype).permute(0, 3, 1, 2), kept, place


def sums(gradient, kept, place):
    """The sums (C,) of the gradient and of gradient · x over the kept pixels; no other pixel has a gradient."""
    gradient = torch.where(place >= 0, wide(gradient.permute(0, 2, 3, 1)), 0)
    return gradient.sum((0, 1, 2)), (gradient * wide(kept)).sum((0, 1, 2))


def unpool(gradient, place, x, scale, slope, offset):
    """x · slope + offset, and where a pixel was kept gradient · scale besides: the gradient of x."""
    places = torch.arange(4, device=x.device, dtype=x.dtype).view(2, 1, 2, 1)
    gradient = wide(gradient.permute(0, 2, 3, 1))[:, :, None, :, None]
    own = torch.where(place[:, :, None, :, None] == places, gradient, 0)
    result = own * scale + (wide(_windows(x)) * slope + offset)
    return result.to(x.dtype).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


def _windows(x):
    """(N, C, H, W) -> (N, H/2, 2, W/2, 2, C)."""
    return x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


class Kernels(NamedTuple):
    """The four passes, as they are or compiled."""

    statistics: callable = statistics
    pool: callable = pool
    sums: callable = sums
    unpool: callable = unpool


class _NormPool(torch.autograd.Function):
    """BatchNorm's backward is that of Ioffe & Szegedy 2015, section 3, whose sums need the kept pixels alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, kernels):
        variance, mean = kernels.statistics(x)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        y, kept, place = kernels.pool(x, scale, bias - mean * scale)
        ctx.save_for_backward(x, kept, place, mean, inverse, scale)
        ctx.kernels = kernels
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx, gradient, *_):
        x, kept, place, mean, inverse, scale = ctx.saved_tensors
        total, product = ctx.kernels.sums(gradient, kept, place)
        weight_gradient = (product - mean * total) * inverse
        count = x.numel() // x.shape[1]
        slope = -scale * inverse * weight_gradient / count
        offset = -scale * total / count - slope * mean
        return ctx.kernels.unpool(gradient, place, x, scale, slope, offset), weight_gradient, total, None, None


def norm_pool(x, norm, kernels):
    """relu(max_pool2d(norm(x), 2)) in training, for a BatchNorm2d, whose running statistics move as they would."""
    y, mean, variance = _NormPool.apply(x, norm.weight, norm.bias, norm.eps, kernels)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return y


def fits(x, norm):
    """Whether `norm_pool` can take it: whole windows, and BatchNorm of this process alone."""
    return type(norm) is torch.nn.BatchNorm2d and x.shape[2] % 2 == x.shape[3] % 2 == 0
