"""ptflops.get_model_complexity_info with its default (PyTorch) back end: hooks on modules, and patched functions.

It counts products with bias; norms 2 · in; ReLU and pooling modules **twice**, 1 · in by the hook on the module and 1 · in
by the function that the module calls; SiLU once; `+=`, `*` and hard swish not at all.
"""

import contextlib
import io
from collections import defaultdict
from importlib.metadata import version

import torch
from torch.nn import functional as F

from utils.complexity.counters.profile import COUNTERS, Profile, cause_of_module, copy_of, module_rows, whole
from utils.complexity.formulas import PRODUCTS
from utils.complexity.recorder import running_modules


@COUNTERS.register("ptflops")
def count_ptflops(model, image_size):
    """What ptflops counts, filed while it runs: its own result is by module only, without a cause."""
    from ptflops import get_model_complexity_info, pytorch_ops

    network, out = copy_of(model), io.StringIO()
    books = _Books(network, pytorch_ops.MODULES_MAPPING)
    with (
        torch.no_grad(),
        _replaced(pytorch_ops.FUNCTIONAL_MAPPING, books.functions(pytorch_ops.FUNCTIONAL_MAPPING)),
        _replaced(pytorch_ops.TENSOR_OPS_MAPPING, books.functions(pytorch_ops.TENSOR_OPS_MAPPING)),
        _tensor_methods_restored(),
        contextlib.redirect_stdout(out),
    ):
        macs, parameters = get_model_complexity_info(
            network,
            (3, image_size, image_size),
            as_strings=False,
            print_per_layer_stat=True,
            ost=out,
            custom_modules_hooks={kind: books.on_module(hook) for kind, hook in pytorch_ops.MODULES_MAPPING.items()},
        )
    if macs is None:  # it prints the traceback of a failure and goes on
        raise RuntimeError(f"ptflops could not count the model:\n{out.getvalue()}")
    return Profile(
        tool="ptflops",
        version=version("ptflops"),
        macs=whole(macs),
        counts=dict(books.counts),
        rows=module_rows(model, books.counts),
        text=lambda max_depth: _cut(out.getvalue(), max_depth),
        parameters=parameters,
        remarks=(
            "ptflops' table leaves out what its patched functions count, its total has it: ReLU and pooling modules twice.",
            "Its parameters are the trainable ones only.",
        ),
    )


class _Books:
    """`counts`: MACs by (module path, cause), noted by wrappers around the functions with which ptflops counts.

    `kinds` are the types of modules that it counts as a whole, whatever is inside of them.
    """

    def __init__(self, network, kinds):
        self.counts = defaultdict(int)
        self._running = running_modules(network)
        self._paths = {module: path for path, module in network.named_modules()}
        whole = [module for module in network.modules() if type(module) in kinds]
        self._inside = {inner for module in whole for inner in module.modules() if inner is not module}

    def on_module(self, hook):
        """The hook of a kind of layer, with what it counts noted."""

        def record(module, inputs, output):
            before = module.__flops__
            hook(module, inputs, output)
            macs = module.__flops__ - before
            if module in self._inside:  # its total has them already, by what it counts for the attention around them
                return
            path, cause = self._paths[module], cause_of_module(module)
            if cause in PRODUCTS and getattr(module, "bias", None) is not None:
                self.counts[path, "bias"] += output.numel()  # its formula for a layer: the products, and one an output
                macs -= output.numel()
            self.counts[path, cause] += macs

        return record

    def functions(self, handlers):
        """The handlers of functions, each with what it counts noted."""
        return {function: self._on_function(function, handler) for function, handler in handlers.items()}

    def _on_function(self, function, handler):
        def record(*args, **kwargs):
            macs = int(handler(*args, **kwargs))
            self.counts[self._running[-1], _cause_of_function(function)] += macs
            return macs

        return record


def _cause_of_function(op):
    name = getattr(op, "__name__", str(op))
    if name in ("matmul", "mm", "bmm", "addmm", "baddbmm"):
        return "attention"
    if "pool" in name or op in (F.max_pool1d, F.max_pool2d, F.max_pool3d):  # those are called "fn", being dispatched
        return "pooling"
    return {"linear": "linear", "mul": "elementwise", "add": "elementwise"}.get(name, "activation")


@contextlib.contextmanager
def _replaced(mapping, entries):
    before = dict(mapping)
    mapping.update(entries)
    try:
        yield
    finally:
        mapping.clear()
        mapping.update(before)


@contextlib.contextmanager
def _tensor_methods_restored():
    """ptflops puts back what it replaced in torch.Tensor as attributes of its own, where they were inherited before."""
    before = set(vars(torch.Tensor))
    try:
        yield
    finally:
        for name in set(vars(torch.Tensor)) - before:
            delattr(torch.Tensor, name)


def _cut(text, max_depth):
    """The printed module tree down to a depth: an attribute line belongs to the module that it stands under."""
    lines = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        own = line.lstrip().startswith(("(", ")")) or depth == 0
        if max_depth is None or (depth if own else depth - 1) <= max_depth:
            lines.append(line)
    return "\n".join(lines)
