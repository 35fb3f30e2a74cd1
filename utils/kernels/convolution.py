"""Conv2d and pooling layers with faster CPU backward passes than PyTorch's.

They have the same values and gradients, up to rounding. `utils.kernels.convert` puts them into the network that trains.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from utils.kernels import winograd
from utils.kernels.compiled import compiled


class _Convolution(torch.autograd.Function):
    """x (N, C, H, W), weight (O, C / groups, K, L) of one dtype -> (N, O, H', W'), without dilation; `layer` computes all."""

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
    """A Conv2d that computes its own gradients in training where `gains` says that this is faster; else it is plain."""

    @classmethod
    def from_layer(cls, layer):
        """A layer with the Parameters and the mode of `layer`, a Conv2d."""
        size = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        new = cls(*size, layer.groups, layer.bias is not None, layer.padding_mode, device="meta")
        new.weight, new.bias = layer.weight, layer.bias
        return new.train(layer.training)

    def forward(self, x):
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        if not self.gains(x, dtype):
            return super().forward(x)
        y = _Convolution.apply(x.to(dtype), self.weight.to(dtype), self)
        return y if self.bias is None else y + self.bias.to(dtype).view(-1, 1, 1)

    @staticmethod
    def usual(convolution):
        """Whether it pads with zeros, by numbers of pixels, and has no dilation."""
        zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        return zeros and convolution.dilation == (1, 1)

    def convolve(self, x, weight):
        return F.conv2d(x, weight, None, self.stride, self.padding, groups=self.groups)

    def input_gradient(self, x, weight, gradient):
        return torch.nn.grad.conv2d_input(x.shape, weight, gradient, self.stride, self.padding, groups=self.groups)


class SmallMapConv2d(_OwnGradients):
    """The gradient of the weights as one matrix product, where a channel has more weights than its maps have pixels.

    Deep layers on small images are such: 512 × 512 × 3 × 3 weights over maps of 1×1 to 7×7.
    """

    dtypes = (torch.bfloat16,)  # fp32 gains nothing

    @classmethod
    def takes(cls, convolution):
        return cls.usual(convolution) and convolution.groups == 1

    def gains(self, x, dtype):
        numbers = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        pixels = math.prod((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in numbers)
        return dtype in self.dtypes and self.weight[:, 0].numel() >= len(x) * pixels

    def weight_gradient(self, x, weight, gradient):
        """The im2col product, (O, N·H'·W') times (N·H'·W', K·L·C): the sum over all pixels of gradient ⊗ patch."""
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
    """A wide 3×3 convolution, computed by `utils.kernels.winograd` for the batches that it was found faster for."""

    least = 64  # channels; with fewer the transformations weigh more than the products
    batches, kernels = frozenset(), winograd.Kernels()

    @classmethod
    def takes(cls, convolution):
        plain = (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
        return super().takes(convolution) and plain and min(convolution.in_channels, convolution.out_channels) >= cls.least

    @classmethod
    def from_layer(cls, layer, batches=()):
        """`batches`: the (shape, dtype) of each input that Winograd's filtering is for; it is compiled for them."""
        new = super().from_layer(layer)
        new.batches, new.kernels = frozenset(batches), compiled(winograd.Kernels())
        return new

    def gains(self, x, dtype):
        return self.filters(x, dtype) or super().gains(x, dtype)

    def filters(self, x, dtype):
        """Whether this input is computed by Winograd's filtering."""
        return (tuple(x.shape), dtype) in self.batches

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
    """A depthwise convolution whose gradients use only the fast calls of oneDNN: at most three columns of weights at a time.

    With five columns oneDNN takes two to ten times as long; in bf16 so does the gradient of the input of a strided layer.
    """

    columns = 3

    @classmethod
    def takes(cls, convolution):
        return cls.usual(convolution) and convolution.groups == convolution.in_channels == convolution.out_channels > 1

    def gains(self, x, dtype):
        return dtype == torch.bfloat16 or (self.kernel_size[1] > self.columns and self.stride == (1, 1))

    def input_gradient(self, x, weight, gradient):
        """Without a stride the convolution with the flipped weights; with one PyTorch's own, in fp32 at least."""
        padding = [size - 1 - padding for size, padding in zip(self.kernel_size, self.padding, strict=True)]
        if self.stride == (1, 1) and min(padding) >= 0:
            return F.conv2d(gradient, weight.flip(2, 3), None, 1, padding, groups=self.groups)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        return super().input_gradient(x, weight.to(wide), gradient.to(wide)).to(x.dtype)

    def weight_gradient(self, x, weight, gradient):
        """Three columns of weights at a time, each over the part of x that they meet, padded with zeros."""
        channels, _, rows, columns = weight.shape
        if columns <= self.columns:
            return torch.nn.grad.conv2d_weight(x, weight.shape, gradient, self.stride, self.padding, groups=channels)
        (down, right), (above, before) = self.stride, self.padding
        height = (gradient.shape[2] - 1) * down + rows
        parts = []
        for first in range(0, columns, self.columns):
            count = min(self.columns, columns - first)
            width = (gradient.shape[3] - 1) * right + count
            left = before - first  # negative padding crops x
            if left >= width or -left >= x.shape[3]:  # these columns meet nothing but the padding of a map narrower than they
                parts.append(weight.new_zeros(channels, 1, rows, count))
                continue
            part = F.pad(x, (left, width - left - x.shape[3], above, height - above - x.shape[2]))
            parts.append(torch.nn.grad.conv2d_weight(part, (channels, 1, rows, count), gradient, self.stride, groups=channels))
        return torch.cat(parts, 3)


class GlobalAveragePool(nn.AdaptiveAvgPool2d):
    """The mean of each channel, whose gradient is a view of one number for all pixels until it is used.

    PyTorch writes it out pixel by pixel in NCHW; a squeeze-and-excitation block then adds it to one in channels_last, slowly.
    """

    @classmethod
    def takes(cls, pool):
        return pool.output_size in (1, (1, 1))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        return x.sum((2, 3), keepdim=True) / x.shape[2:].numel()
