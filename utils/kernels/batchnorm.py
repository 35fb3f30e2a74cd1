"""BatchNorm of a training step fused with what follows it, in as few passes over memory as possible.

What follows is ReLU, perhaps of the sum with a second input, or 2×2 max-pooling and ReLU. Each pass is a function that
`compiled` fuses into one loop; uncompiled they give the same numbers, slowly. Passes take pixels as (N, H, W, C), or as the
L = N·H lines of all images, (L, W, C); both are views of an x (N, C, H, W) in channels_last.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from utils.kernels.compiled import wide


def statistics(x):
    """Variance and mean (C,) of x (L, W, C). Sums of distances from the mean of the first column of pixels lose no digits."""
    middle = wide(x[:, 0]).mean(0)
    distance, count = wide(x) - middle, len(x) * x.shape[1]
    mean = _total(distance) / count
    return _total(distance.square()) / count - mean.square(), mean + middle


def _total(x):
    """The sums (C,) of x (L, W, C), line by line: a line stays in the CPU's cache."""
    return x.sum(1).sum(0)


def relu(x, scale, shift, other):
    """relu(x · scale + shift + other) for x and other (L, W, C); `other` may be None."""
    return _before_relu(x, scale, shift, other).clamp_min(0).to(x.dtype)


def relu_sums(gradient, x, scale, shift, other):
    """The sums (C,) of the gradient behind ReLU, and of its products with x."""
    gradient = _through_relu(gradient, x, scale, shift, other)
    return _total(gradient), _total(gradient * wide(x))


def relu_gradients(gradient, x, scale, shift, other, slope, offset):
    """The gradients of x, g · scale + x · slope + offset, and of `other`, g, where g is the gradient behind ReLU."""
    gradient = _through_relu(gradient, x, scale, shift, other)
    own = gradient * scale + (wide(x) * slope + offset)
    return own.to(x.dtype), None if other is None else gradient.to(other.dtype)


def _before_relu(x, scale, shift, other):
    y = wide(x) * scale + shift
    return y if other is None else y + wide(other)


def _through_relu(gradient, x, scale, shift, other):
    return torch.where(_before_relu(x, scale, shift, other) > 0, wide(gradient), 0)  # cheaper than reading the output


def pool(x, scale, shift):
    """relu(max_pool2d(x · scale + shift, 2)) for x (N, H, W, C) of even sides; and which pixel of each window was taken.

    Three tensors (N, H/2, W/2, C): the values; the pixels of x that gave them; and their places in the window, 0 to 3, or -1
    where ReLU gives zero. Places have the dtype of x, so that all vectors of the loop have one width.
    """
    windows = _windows(x)
    pixels = [windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1)]
    kept, best, place = pixels[0], wide(pixels[0]) * scale + shift, torch.zeros_like(pixels[0])
    for number in (1, 2, 3):
        value = wide(pixels[number]) * scale + shift
        higher = value > best  # of equal values the first stays, as in max_pool2d
        best = torch.where(higher, value, best)
        kept = torch.where(higher, pixels[number], kept)
        place = torch.where(higher, number, place)
    place = torch.where(best > 0, place, -1)
    return best.clamp_min(0).to(x.dtype), kept, place


def pool_sums(gradient, kept, place):
    """The sums (C,) of the gradient and of gradient · x over the pixels taken (L, W, C); the others have no gradient."""
    gradient = torch.where(place >= 0, wide(gradient), 0)
    return _total(gradient), _total(gradient * wide(kept))


def unpool(gradient, place, x, scale, slope, offset):
    """The gradient of x (N, H, W, C): x · slope + offset, plus gradient · scale at the pixels that were taken."""
    places = torch.arange(4, device=x.device, dtype=x.dtype).view(2, 1, 2, 1)
    own = torch.where(place[:, :, None, :, None] == places, wide(gradient)[:, :, None, :, None], 0)
    result = own * scale + (wide(_windows(x)) * slope + offset)
    return result.to(x.dtype).flatten(1, 2).flatten(2, 3)


def _windows(x):
    """(N, H, W, C) -> (N, H/2, 2, W/2, 2, C)."""
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


class ReluPasses(NamedTuple):
    """The passes of `norm_relu`, plain or compiled."""

    statistics: callable = statistics
    relu: callable = relu
    sums: callable = relu_sums
    gradients: callable = relu_gradients


class PoolPasses(NamedTuple):
    """The passes of `norm_pool`, plain or compiled."""

    statistics: callable = statistics
    pool: callable = pool
    sums: callable = pool_sums
    unpool: callable = unpool


def _pixels_last(x):
    return x.permute(0, 2, 3, 1)


def _channels_first(x):
    return x.permute(0, 3, 1, 2)


def _lines(x):
    return None if x is None else _pixels_last(x).flatten(0, 1)


def _affine(x, weight, bias, eps, passes):
    """BatchNorm as x · scale + shift: scale, shift, the mean, 1 / standard deviation, and the variance, each (C,)."""
    variance, mean = passes.statistics(_lines(x))
    inverse = torch.rsqrt(variance + eps)
    scale = weight * inverse
    return scale, bias - mean * scale, mean, inverse, variance


def _gradient_affine(x, total, product, mean, inverse, scale):
    """`slope` and `offset` of the gradient of x (Ioffe & Szegedy 2015, section 3), and the gradient of the weight."""
    count = x.numel() // x.shape[1]
    weight_gradient = (product - mean * total) * inverse
    slope = -scale * inverse * weight_gradient / count
    return slope, -scale * total / count - slope * mean, weight_gradient


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, other, eps, passes):
        scale, shift, mean, inverse, variance = _affine(x, weight, bias, eps, passes)
        ctx.save_for_backward(x, other, mean, inverse, scale, shift)
        ctx.passes = passes
        ctx.mark_non_differentiable(mean, variance)
        y = passes.relu(_lines(x), scale, shift, _lines(other))
        return _channels_first(y.view(_pixels_last(x).shape)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        x, other, mean, inverse, scale, shift = ctx.saved_tensors
        seen = _lines(gradient), _lines(x), scale, shift, _lines(other)
        total, product = ctx.passes.sums(*seen)
        slope, offset, weight_gradient = _gradient_affine(x, total, product, mean, inverse, scale)
        gradients = ctx.passes.gradients(*seen, slope, offset)
        own, others = (None if g is None else _channels_first(g.view(_pixels_last(x).shape)) for g in gradients)
        return own, weight_gradient, total, others, None, None


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, passes):
        scale, shift, mean, inverse, variance = _affine(x, weight, bias, eps, passes)
        y, kept, place = passes.pool(_pixels_last(x), scale, shift)
        ctx.save_for_backward(x, kept, place, mean, inverse, scale)
        ctx.passes = passes
        ctx.mark_non_differentiable(mean, variance)
        return _channels_first(y), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        x, kept, place, mean, inverse, scale = ctx.saved_tensors
        total, product = ctx.passes.sums(_lines(gradient), kept.flatten(0, 1), place.flatten(0, 1))
        slope, offset, weight_gradient = _gradient_affine(x, total, product, mean, inverse, scale)
        own = ctx.passes.unpool(_pixels_last(gradient), place, _pixels_last(x), scale, slope, offset)
        return _channels_first(own), weight_gradient, total, None, None


def norm_relu(x, norm, passes, other=None):
    """relu(norm(x) + other) in training, for a BatchNorm2d; updates its running statistics."""
    y, mean, variance = _NormRelu.apply(x, norm.weight, norm.bias, other, norm.eps, passes)
    _update_statistics(norm, mean, variance, x)
    return y


def norm_pool(x, norm, passes):
    """relu(max_pool2d(norm(x), 2)) in training, for a BatchNorm2d; updates its running statistics."""
    y, mean, variance = _NormPool.apply(x, norm.weight, norm.bias, norm.eps, passes)
    _update_statistics(norm, mean, variance, x)
    return y


@torch.no_grad()
def _update_statistics(norm, mean, variance, x):
    count = x.numel() // x.shape[1]
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    norm.num_batches_tracked.add_(1)
