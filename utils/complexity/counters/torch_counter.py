"""torch.utils.flop_counter.FlopCounterMode: true FLOPs of products, halved here to MACs.

It counts convolution, linear and matrix products; nothing else, and no bias.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from utils.complexity.counters.profile import (
    COUNTERS,
    Profile,
    by_cause,
    copy_of,
    input_for,
    module_rows,
    module_table,
    unfused_attention,
    whole,
    without_children,
)


@COUNTERS.register("torch")
def count_torch(model, image_size):
    """torch.utils.flop_counter.FlopCounterMode."""
    network = copy_of(model)
    with torch.no_grad(), unfused_attention(), FlopCounterMode(display=False) as counter:
        network(input_for(network, image_size))
    root = type(network).__name__
    inclusive = {}
    for name, operators in counter.get_flop_counts().items():
        if name != "Global":  # a second name for the whole
            path = "" if name == root else name.removeprefix(f"{root}.")
            inclusive[path] = {str(operator).removeprefix("aten."): flops for operator, flops in operators.items()}
    flops = {path: {name: whole(n / 2) for name, n in operators.items()} for path, operators in inclusive.items()}
    counts = by_cause(without_children(flops))
    rows = module_rows(model, counts)
    return Profile(
        tool="torch",
        version=torch.__version__,
        macs=whole(counter.get_total_flops() / 2),
        counts=counts,
        rows=rows,
        text=lambda max_depth: module_table(rows, max_depth),
        by_operator=flops.get("", {}),
    )
