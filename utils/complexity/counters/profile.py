"""What a counter returns, and the steps that several counters share."""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from utils.core.registry import Registry
from utils.core.text import table

COUNTERS = Registry("counter")  # name -> function (model, image_size) -> Profile


@dataclass
class Profile:
    """What one tool says of one network; all counts are integers."""

    tool: str
    version: str
    macs: int  # the tool's own total, in MACs
    counts: dict  # (module path, cause) -> MACs; what a module runs itself, its children left out
    rows: list  # one dict a module: "module", "type", "parameters", "macs" (both with the children), and what the tool adds
    text: Callable  # (max_depth or None) -> the tool's own table
    parameters: int | None = None  # as the tool counts them
    by_operator: dict | None = None  # operator -> MACs
    dmas: int | None = None  # memory accesses, in elements
    remarks: tuple = ()  # what to know of these figures


# The file in torch.nn.modules that defines a layer says what kind of work it does.
_KINDS = {
    "conv": "convolution",
    "linear": "linear",
    "batchnorm": "normalisation",
    "instancenorm": "normalisation",
    "normalization": "normalisation",
    "activation": "activation",
    "pooling": "pooling",
}
_OPERATORS = {  # fvcore's and torch's names for operators
    "conv": "convolution",
    "convolution": "convolution",
    "linear": "linear",
    "addmm": "linear",
    "mm": "linear",
    "bmm": "attention",
    "matmul": "attention",
    "einsum": "attention",
    "baddbmm": "attention",
    "batch_norm": "normalisation",
    "group_norm": "normalisation",
    "layer_norm": "normalisation",
    "instance_norm": "normalisation",
}


def cause_of_module(module):
    if isinstance(module, nn.MultiheadAttention) or type(module).__name__ == "Attention":  # the second: timm's, for ptflops
        return "attention"
    files = (cls.__module__.removeprefix("torch.nn.modules.") for cls in type(module).__mro__)
    return next((_KINDS[file] for file in files if file in _KINDS), "elementwise")


def cause_of_operator(name):
    if "scaled_dot_product" in name:
        return "attention"
    return _OPERATORS.get(name, "pooling" if "pool" in name else "elementwise")


def copy_of(model):
    """A copy in eval mode: some tools leave hooks or buffers behind, or change the statistics of a BatchNorm."""
    return copy.deepcopy(model).eval()


@contextlib.contextmanager
def unfused_attention():
    """torch computes nn.MultiheadAttention by its single operators: no counter knows the one that does it all at inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def input_for(model, image_size):
    return torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)


def module_rows(model, counts, extra=None):
    """A row for each module, with parameters and MACs including its children's."""
    totals = defaultdict(int)
    for (path, _), macs in counts.items():
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            totals[".".join(parts[:depth])] += macs
    return [
        {
            "module": path,
            "type": type(module).__name__,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "macs": totals[path],
        }
        | (extra or {}).get(path, {})
        for path, module in model.named_modules()
    ]


def without_children(inclusive):
    """Counts of each module without its children, from `{path: {operator: count with the children}}`."""
    own = {path: dict(counts) for path, counts in inclusive.items()}
    for path, counts in inclusive.items():
        parent = path
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in own:
                for name, count in counts.items():
                    own[parent][name] -= count
                break
    return own


def by_cause(own):
    counts = defaultdict(int)
    for path, operators in own.items():
        for name, count in operators.items():
            if count:
                counts[path, cause_of_operator(name)] += whole(count)
    return dict(counts)


def whole(number):
    """A count as an integer. Raises ValueError if it is none, for then a tool has estimated, and sums would not be exact."""
    if int(number) != number:
        raise ValueError(f"a count of {number} is not whole")
    return int(number)


def _depth(path):
    return path.count(".") + 1 if path else 0


def module_table(rows, max_depth):
    shown = [row for row in rows if max_depth is None or _depth(row["module"]) <= max_depth]
    cells = [
        ("  " * _depth(row["module"]) + (row["module"] or "(all)"), row["type"], f"{row['parameters']:,}", f"{row['macs']:,}")
        for row in shown
    ]
    return table(("module", "type", "parameters", "MACs"), cells, "<<>>")
