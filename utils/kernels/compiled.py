"""Passes over the memory, written as plain functions, that a compiler fuses into one loop each."""

import functools

import torch


@functools.cache
def compiled(kernels, dynamic=False):
    """The functions of a NamedTuple, compiled for each shape that they meet, or `dynamic`ally for all.

    Where pixels are picked from a map, fixed sizes make the loops several times faster; where all are gone through, no faster.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # the layers of a network differ
    options = {"realize_reads_threshold": 8}  # a value of so many inputs is computed again where it is used again
    return kernels._make(torch.compile(kernel, dynamic=dynamic, options=options) for kernel in kernels)


def wide(x):
    """Half precision is computed in single."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
