"""Convolutions whose weights outnumber their pictures' pixels: the gradient of the weights as one matrix product.

Deep layers on small images are such: 512 × 512 × 3 × 3 weights over maps of 1×1 to 7×7. The CPU library of torch takes several
times as long for the same sum in bf16, so training on a CPU uses these; evaluation and files know nothing of it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable


class _Convolution(torch.autograd.Function):
    """x (N, C, H, W), weight (O, C, K, L) of one dtype -> (N, O, H', W'), no dilation, no groups."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.nn.grad.conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)
        return x_gradient, _weight_gradient(x, gradient, weight.shape, ctx.stride, ctx.padding), None, None


def _weight_gradient(x, gradient, shape, stride, padding):
    """Sum over pictures and places of gradient ⊗ patch: (O, N·H'·W') times (N·H'·W', K·L·C)."""
    outputs, channels, rows, columns = shape
    height, width = gradient.shape[2:]
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
    spans = [
        (slice(row, row + stride[0] * height, stride[0]), slice(column, column + stride[1] * width, stride[1]))
        for row in range(rows)
        for column in range(columns)
    ]
    patches = torch.stack([x[:, down, across][:, :height, :width] for down, across in spans], 3)  # (N, H', W', K·L, C)
    product = gradient.permute(0, 2, 3, 1).reshape(-1, outputs).t() @ patches.reshape(-1, rows * columns * channels)
    return product.view(outputs, rows, columns, channels).permute(0, 3, 1, 2)


class SmallMapConv2d(nn.Conv2d):
    """A Conv2d that takes the matrix product in training where its weights are more than the numbers of its input."""

    dtypes = (torch.bfloat16,)  # in fp32 nothing was gained

    def forward(self, x):
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not (trained and dtype in self.dtypes and self.weight.numel() >= x.numel()):
            return super().forward(x)
        y = _Convolution.apply(x.to(dtype), self.weight.to(dtype), self.stride, self.padding)
        return y if self.bias is None else y + self.bias.to(dtype).view(-1, 1, 1)


def prefer_matrix_products(model):
    """Make every plain convolution of `model` a SmallMapConv2d, in place; parameters and their names stay."""
    for module in model.modules():
        plain = type(module) is nn.Conv2d and module.groups == 1 and module.dilation == (1, 1)
        if plain and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = SmallMapConv2d
