"""thop.profile: hooks on the leaves of the module tree. It says "ops" and means MACs.

It counts products without bias; batch norm 4 · in; adaptive pooling (taps + 1) · out; group norm, activations, maximum
pooling and sums nothing.
"""

import contextlib
import io
import warnings
from importlib.metadata import version

import torch

from utils.complexity.counters.profile import (
    COUNTERS,
    Profile,
    cause_of_module,
    copy_of,
    input_for,
    module_rows,
    module_table,
    whole,
)


@COUNTERS.register("thop")
def count_thop(model, image_size):
    """thop.profile: hooks on the leaves of the module tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # distutils, which it imports for a version check
        from thop import profile
    network = copy_of(model)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        macs, parameters, tree = profile(network, (input_for(network, image_size),), verbose=False, ret_layer_info=True)
    modules = dict(model.named_modules())
    counts = {}

    def walk(children, prefix):
        for name, (ops, _, inner) in children.items():
            path = prefix + name
            if inner:
                walk(inner, f"{path}.")
            elif ops:
                counts[path, cause_of_module(modules[path])] = whole(ops)

    walk(tree, "")
    rows = module_rows(model, counts)
    return Profile(
        tool="thop",
        version=version("thop"),
        macs=whole(macs),
        counts=counts,
        rows=rows,
        text=lambda max_depth: module_table(rows, max_depth),
        parameters=whole(parameters),
        remarks=('thop prints no table: this one is drawn from what its profile() returns; its "ops" are MACs.',),
    )
