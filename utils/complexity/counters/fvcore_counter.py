"""fvcore.nn.FlopCountAnalysis: the operators of a traced graph. It says "flops" and means MACs.

It counts products without bias; batch norm 2 · in (at inference), group and layer norm 5 · in; adaptive pooling 1 · in.
"""

import warnings
from importlib.metadata import version

import torch

from utils.complexity.counters.profile import (
    COUNTERS,
    Profile,
    by_cause,
    copy_of,
    input_for,
    module_rows,
    unfused_attention,
    whole,
    without_children,
)


@COUNTERS.register("fvcore")
def count_fvcore(model, image_size):
    """fvcore.nn.FlopCountAnalysis: the operators of a traced graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions when imported, which torch deprecates
        from fvcore.nn import FlopCountAnalysis, flop_count_table, parameter_count
    network = copy_of(model)
    analysis = FlopCountAnalysis(network, input_for(network, image_size))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), torch.no_grad(), unfused_attention():
        warnings.simplefilter("ignore")
        inclusive = analysis.by_module_and_operator()
    counts = by_cause(without_children(inclusive))
    extra = {path: {"by_operator": {name: whole(n) for name, n in ops.items()}} for path, ops in inclusive.items()}
    return Profile(
        tool="fvcore",
        version=version("fvcore"),
        macs=whole(analysis.total()),
        counts=counts,
        rows=module_rows(model, counts, extra),
        text=lambda max_depth: flop_count_table(analysis, max_depth=1000 if max_depth is None else max_depth),
        parameters=parameter_count(network)[""],
        by_operator={name: whole(n) for name, n in analysis.by_operator().items()},
        remarks=('fvcore\'s table says "flops": they are MACs.',),
    )
