"""Layers whose gradients are taken another way than torch takes them on a CPU, where that is slow.

Training on a CPU uses them for what `KINDS` names, several times as fast and with the same sums; evaluation and files know
nothing of it. A family of networks adds to it the blocks that it computes another way then.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from utils.kernels import winograd
from utils.kernels.compiled import compiled


class _Convolution(torch.autograd.Function):
    """x (N, C, H, W), weight (O, C / groups, K, L) of one dtype -> (N, O, H', W'), no dilation; gradients by `layer`."""

    @staticmethod
    def forward(ctx, x, weight, layer):
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        return layer.convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        x_gradient = ctx.layer.input_gradient(x, weight, gradient) if ctx.needs_input_grad[0] else None
        return x_gradient, ctx.layer.weight_gradient(x, weight, gradient), None


class _OwnGradients(nn.Conv2d):
    """A Conv2d that computes its gradients itself in training, where `gains` says so of the numbers that come in."""

    def forward(self, x):
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not (trained and self.gains(x, dtype)):
            return super().forward(x)
        y = _Convolution.apply(x.to(dtype), self.weight.to(dtype), self)
        return y if self.bias is None else y + self.bias.to(dtype).view(-1, 1, 1)

    @staticmethod
    def usual(convolution):
        """Whether its padding is zeros, in numbers, and its weights meet pixels side by side."""
        zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        return zeros and convolution.dilation == (1, 1)

    def convolve(self, x, weight):
        return F.conv2d(x, weight, None, self.stride, self.padding, groups=self.groups)

    def input_gradient(self, x, weight, gradient):
        return torch.nn.grad.conv2d_input(x.shape, weight, gradient, self.stride, self.padding, groups=self.groups)


class SmallMapConv2d(_OwnGradients):
    """Where a channel has more weights than the maps have places, the gradient of the weights as one matrix product.

    Deep layers on small images are such: 512 × 512 × 3 × 3 weights over maps of 1×1 to 7×7.
    """

    dtypes = (torch.bfloat16,)  # in fp32 nothing was gained

    @classmethod
    def takes(cls, convolution):
        return cls.usual(convolution) and convolution.groups == 1

    def gains(self, x, dtype):
        numbers = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        places = math.prod((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in numbers)
        return dtype in self.dtypes and self.weight[:, 0].numel() >= len(x) * places

    def weight_gradient(self, x, weight, gradient):
        """Sum over pictures and places of gradient ⊗ patch: (O, N·H'·W') times (N·H'·W', K·L·C)."""
        outputs, channels, rows, columns = weight.shape
        height, width = gradient.shape[2:]
        (down, right), padding = self.stride, self.padding
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
        spans = [
            (slice(row, row + down * height, down), slice(column, column + right * width, right))
            for row in range(rows)
            for column in range(columns)
        ]
        patches = torch.stack([x[:, i, j][:, :height, :width] for i, j in spans], 3)  # (N, H', W', K·L, C)
        product = gradient.permute(0, 2, 3, 1).reshape(-1, outputs).t() @ patches.reshape(-1, rows * columns * channels)
        return product.view(outputs, rows, columns, channels).permute(0, 3, 1, 2)


class WinogradConv2d(SmallMapConv2d):
    """Wide 3×3 layers, all of whose products `models.winograd` takes once `compile_training` has found that faster."""

    least = 64  # channels; with fewer the transformations weigh more than the products
    kernels, batch_size, faster = None, 0, None

    @classmethod
    def takes(cls, convolution):
        plain = (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
        return super().takes(convolution) and plain and min(convolution.in_channels, convolution.out_channels) >= cls.least

    def compile_training(self, batch_size, faster):
        """Compile the transformations, for batches of `batch_size`, where that pays; 0 takes it back.

        `faster(key, ways)` names the one of two functions that takes less time here. Other batches and evaluation stay.
        """
        self.kernels, self.batch_size, self.faster = compiled(winograd.Kernels()), batch_size, faster
        self.found = {}  # of what has come in: whether it is faster

    @property
    def is_compiled(self):
        return any(self.found.values())

    def gains(self, x, dtype):
        return self.filters(x, dtype) or super().gains(x, dtype)

    def filters(self, x, dtype):
        """Whether it goes by `models.winograd`: measured, forward and backward, when such a batch first comes."""
        if len(x) != self.batch_size or dtype not in winograd.TILES:
            return False
        key = f"3×3 convolution, {dtype}, {tuple(x.shape)} to {self.out_channels}"
        if key not in self.found:
            self.found[key] = self.faster(key, {way: self._step(x.detach().to(dtype), key, way) for way in (False, True)})
        return self.found[key]

    def _step(self, x, key, way):
        def step():
            self.found[key] = way
            y = self(x.requires_grad_())
            torch.autograd.grad(y, (x, self.weight), y.detach())

        return step

    def convolve(self, x, weight):
        if not self.filters(x, x.dtype):
            return super().convolve(x, weight)
        y = winograd.convolve(_last(x), _last(weight), winograd.TILES[x.dtype], self.kernels)
        return y.permute(0, 3, 1, 2)

    def input_gradient(self, x, weight, gradient):
        if not self.filters(x, x.dtype):
            return super().input_gradient(x, weight, gradient)
        x_gradient = winograd.input_gradient(_last(gradient), _last(weight), winograd.TILES[x.dtype], self.kernels)
        return x_gradient.permute(0, 3, 1, 2)

    def weight_gradient(self, x, weight, gradient):
        if not self.filters(x, x.dtype):
            return super().weight_gradient(x, weight, gradient)
        w_gradient = winograd.weight_gradient(_last(x), _last(gradient), winograd.TILES[x.dtype], self.kernels)
        return w_gradient.permute(0, 3, 1, 2)


def _last(x):
    """(N, C, H, W) -> (N, H, W, C) without gaps, which a tensor in channels_last is already."""
    return x.permute(0, 2, 3, 1).contiguous()


class DepthwiseConv2d(_OwnGradients):
    """A depthwise convolution by the calls of the CPU library that are fast: no more than three columns of weights at a time.

    Five columns take it two to ten times as long, and in bf16 so does the gradient of an input that a stride has thinned.
    """

    columns = 3

    @classmethod
    def takes(cls, convolution):
        return cls.usual(convolution) and convolution.groups == convolution.in_channels == convolution.out_channels > 1

    def gains(self, x, dtype):
        return dtype == torch.bfloat16 or (self.kernel_size[1] > self.columns and self.stride == (1, 1))

    def input_gradient(self, x, weight, gradient):
        """With no stride that is the convolution with the turned weights; otherwise torch's own, in fp32 at least."""
        padding = [size - 1 - padding for size, padding in zip(self.kernel_size, self.padding, strict=True)]
        if self.stride == (1, 1) and min(padding) >= 0:
            return F.conv2d(gradient, weight.flip(2, 3), None, 1, padding, groups=self.groups)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        return super().input_gradient(x, weight.to(wide), gradient.to(wide)).to(x.dtype)

    def weight_gradient(self, x, weight, gradient):
        """Of three columns at most at a time, over the part of x, padded with zeros, that they meet."""
        channels, _, rows, columns = weight.shape
        if columns <= self.columns:
            return torch.nn.grad.conv2d_weight(x, weight.shape, gradient, self.stride, self.padding, groups=channels)
        (down, right), (above, before) = self.stride, self.padding
        height = (gradient.shape[2] - 1) * down + rows
        parts = []
        for first in range(0, columns, self.columns):
            count = min(self.columns, columns - first)
            width = (gradient.shape[3] - 1) * right + count
            left = before - first  # below zero, x is cut
            part = F.pad(x, (left, width - left - x.shape[3], above, height - above - x.shape[2]))
            parts.append(torch.nn.grad.conv2d_weight(part, (channels, 1, rows, count), gradient, self.stride, groups=channels))
        return torch.cat(parts, 3)


class GlobalAveragePool(nn.AdaptiveAvgPool2d):
    """The mean of each channel, whose gradient stays one number for all pixels until it is used.

    Torch writes it out pixel by pixel in NCHW; a squeeze-and-excitation then adds that to one in channels_last, slowly.
    """

    @classmethod
    def takes(cls, pool):
        return pool.output_size in (1, (1, 1))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        return x.sum((2, 3), keepdim=True) / x.shape[2:].numel()
