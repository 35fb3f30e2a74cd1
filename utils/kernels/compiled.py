"""Compiles passes over memory, written as plain functions: each becomes one loop."""

import functools

import torch


@functools.cache
def compiled(kernels, dynamic=False):
    """The functions of a NamedTuple, compiled once per shape, or with `dynamic` once for all shapes.

    Fixed shapes make the loops that pick pixels from a map several times faster, and those that read all pixels no faster.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # the layers of a network differ
    options = {"realize_reads_threshold": 8}  # recompute values of up to so many inputs rather than store them
    return kernels._make(torch.compile(kernel, dynamic=dynamic, options=options) for kernel in kernels)


def wide(x):
    """x in single precision at least, in which 16-bit values are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
