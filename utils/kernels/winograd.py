"""3×3 convolutions and their gradients by Winograd's minimal filtering (Winograd 1980; Lavin & Gray 2015 for networks).

A tile of m×m outputs takes (m + 2)² products a channel instead of 9·m². Stride 1, one pixel of padding; images and gradients
are (N, H, W, C), weights (K, 3, 3, C). Sums are in single precision at least.

Each pass is a function that `compiled` fuses into one loop; uncompiled they give the same numbers, slowly.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from utils.kernels.compiled import wide

TILES = {torch.bfloat16: 2, torch.float32: 4}  # m: larger tiles save more products, but round too much for bf16
# The transformation matrices for each m, by rows.
INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
}  # fmt: skip
WEIGHTS = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
}  # fmt: skip
OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}


def input_tiles(x, m):
    """x (N, 2 + h·m, 2 + w·m, C), padded -> ((m + 2)², N·h·w, C)."""
    tiles = [[x[:, i : x.shape[1] - 1 - m + i : m, j : x.shape[2] - 1 - m + j : m] for j in range(m + 2)] for i in range(m + 2)]
    return _stack(_transform(INPUT[m], tiles), x.dtype).flatten(1, 3)


def gradient_tiles(gradient, m):
    """gradient (N, h·m, w·m, K) -> ((m + 2)², N·h·w, K): the transpose of `output`."""
    tiles = [[gradient[:, i::m, j::m] for j in range(m)] for i in range(m)]
    return _stack(_transform(_transposed(OUTPUT[m]), tiles), gradient.dtype).flatten(1, 3)


def weight_tiles(weight, m):
    """weight (K, 3, 3, C) -> ((m + 2)², K, C)."""
    return _stack(_transform(WEIGHTS[m], [[weight[:, i, j] for j in range(3)] for i in range(3)]), weight.dtype)


def weight_sums(products, m):
    """products ((m + 2)², K, C) -> (K, 3, 3, C): the transpose of `weight_tiles`."""
    rows = _transform(_transposed(WEIGHTS[m]), products.unflatten(0, (m + 2, m + 2)))
    return torch.stack([torch.stack(row, 1) for row in rows], 1).to(products.dtype)


def output(products, shape, m):
    """products ((m + 2)², N·h·w, K) -> (N, H, W, K) for shape (N, H, W); what tiles compute beyond the edge is cut off."""
    count, height, width = shape
    h, w = -(-height // m), -(-width // m)
    pixels = _stack(_transform(OUTPUT[m], products.view(m + 2, m + 2, count, h, w, -1)), products.dtype)
    pixels = pixels.view(m, m, count, h, w, -1).permute(2, 3, 0, 4, 1, 5).reshape(count, h * m, w * m, -1)
    return pixels[:, :height, :width].contiguous()


def _transform(matrix, tiles):
    """matrix · tiles · matrixᵀ, where `tiles` is a list of rows of tensors."""
    rows = [[_product(line, row) for line in matrix] for row in tiles]
    return _transposed([[_product(line, column) for line in matrix] for column in _transposed(rows)])


def _product(line, tensors):
    """The sum of the tensors times their factors in `line`; zeros are skipped."""
    return sum(factor * wide(tensor) for factor, tensor in zip(line, tensors, strict=True) if factor)


def _transposed(rows):
    return list(zip(*rows, strict=True))


def _stack(rows, dtype):
    return torch.stack([tensor.to(dtype) for row in rows for tensor in row])


class Kernels(NamedTuple):
    """The five passes, plain or compiled."""

    input_tiles: callable = input_tiles
    gradient_tiles: callable = gradient_tiles
    weight_tiles: callable = weight_tiles
    weight_sums: callable = weight_sums
    output: callable = output


@torch.autocast("cpu", enabled=False)  # dtypes stay as given, and forward and backward share the compiled passes
def convolve(x, weight, m, kernels):
    """x (N, H, W, C), weight (K, 3, 3, C) -> (N, H, W, K)."""
    return _convolve(x, kernels.weight_tiles(weight, m).transpose(1, 2), m, kernels)


@torch.autocast("cpu", enabled=False)
def input_gradient(gradient, weight, m, kernels):
    """The gradient of x from that of the output: the convolution with the flipped weights."""
    return _convolve(gradient, kernels.weight_tiles(weight.flip(1, 2), m), m, kernels)


@torch.autocast("cpu", enabled=False)
def weight_gradient(x, gradient, m, kernels):
    """The gradient (K, 3, 3, C) of the weights."""
    gradient = kernels.gradient_tiles(_padded(gradient, m, 0), m)
    return kernels.weight_sums(torch.bmm(gradient.transpose(1, 2), kernels.input_tiles(_padded(x, m, 1), m)), m)


def _convolve(x, weights, m, kernels):
    """weights ((m + 2)², C, K)."""
    return kernels.output(torch.bmm(kernels.input_tiles(_padded(x, m, 1), m), weights), x.shape[:3], m)


def _padded(x, m, border):
    """x padded with zeros: `border` pixels around, and on the right and below what fills the last tiles."""
    below, right = -x.shape[1] % m, -x.shape[2] % m
    return F.pad(x, (0, 0, border, border + right, border, border + below)) if border or below or right else x
