"""Passes over the memory, written as plain functions, that a compiler fuses into one loop each."""

import functools

import torch


@functools.cache
def compiled(kernels):
    """The functions of a NamedTuple, compiled for each shape that they meet: fixed sizes make loops several times faster."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # the layers of a network differ
    return kernels._make(torch.compile(kernel, dynamic=False) for kernel in kernels)


def wide(x):
    """Half precision is computed in single."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
