"""The five counters: each runs its tool on a copy of a model and files what the tool counts under module and cause.

All of them speak of MACs, whatever the tool calls its unit: fvcore and thop print "flops" and "ops" and mean MACs, torch counts
true FLOPs of products and is halved. What each tool really counts, as its source and its figures say:

    torch      convolution, linear and matrix products; nothing else, no bias
    fvcore     products without bias; batch norm 2 · in (at inference), group and layer norm 5 · in; adaptive pooling 1 · in
    ptflops    products with bias; norms 2 · in; ReLU and pooling modules **twice**, 1 · in by the hook on the module and
               1 · in by the function that the module calls; SiLU once; `+=`, `*` and hard swish not at all
    thop       products without bias; batch norm 4 · in; adaptive pooling (taps + 1) · out; group norm, activations, maximum
               pooling and sums nothing
    torchscan  products without bias; batch norm 2 · in; pooling as (k − 1) · out with k one side only of a window that is
               given as one number; hard swish, SiLU, group norm nothing, whereupon it calls its totals partial
"""

import contextlib
import copy
import io
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.registry import list_models
from utils.complexity.exact import PRODUCTS, analyse, network_to_count, reconcile
from utils.core import cli
from utils.core.files import RESULTS, write_json, write_text
from utils.core.registry import Registry
from utils.core.text import si, table
from utils.runtime.device import choose_device

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


def _cause_of_module(module):
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    files = (cls.__module__.removeprefix("torch.nn.modules.") for cls in type(module).__mro__)
    return next((_KINDS[file] for file in files if file in _KINDS), "elementwise")


def _cause_of_operator(name):
    if "scaled_dot_product" in name:
        return "attention"
    return _OPERATORS.get(name, "pooling" if "pool" in name else "elementwise")


def _copy(model):
    """A copy in eval mode: some tools leave hooks or buffers behind, or change the statistics of a BatchNorm."""
    return copy.deepcopy(model).eval()


def _input(model, image_size):
    return torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)


def _rows(model, counts, extra=None):
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


def _exclusive(inclusive):
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


def _by_cause(own):
    counts = defaultdict(int)
    for path, operators in own.items():
        for name, count in operators.items():
            if count:
                counts[path, _cause_of_operator(name)] += _whole(count)
    return dict(counts)


def _whole(number):
    """A count as an integer. Raises ValueError if it is none, for then a tool has estimated, and sums would not be exact."""
    if int(number) != number:
        raise ValueError(f"a count of {number} is not whole")
    return int(number)


def _depth(path):
    return path.count(".") + 1 if path else 0


def _module_table(rows, max_depth):
    shown = [row for row in rows if max_depth is None or _depth(row["module"]) <= max_depth]
    cells = [
        ("  " * _depth(row["module"]) + (row["module"] or "(all)"), row["type"], f"{row['parameters']:,}", f"{row['macs']:,}")
        for row in shown
    ]
    return table(("module", "type", "parameters", "MACs"), cells, "<<>>")


@COUNTERS.register("torch")
def count_torch(model, image_size):
    """torch.utils.flop_counter.FlopCounterMode."""
    network = _copy(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(_input(network, image_size))
    root = type(network).__name__
    inclusive = {}
    for name, operators in counter.get_flop_counts().items():
        if name != "Global":  # a second name for the whole
            path = "" if name == root else name.removeprefix(f"{root}.")
            inclusive[path] = {str(operator).removeprefix("aten."): flops for operator, flops in operators.items()}
    flops = {path: {name: _whole(n / 2) for name, n in operators.items()} for path, operators in inclusive.items()}
    counts = _by_cause(_exclusive(flops))
    rows = _rows(model, counts)
    return Profile(
        tool="torch",
        version=torch.__version__,
        macs=_whole(counter.get_total_flops() / 2),
        counts=counts,
        rows=rows,
        text=lambda max_depth: _module_table(rows, max_depth),
        by_operator=flops.get("", {}),
    )


@COUNTERS.register("fvcore")
def count_fvcore(model, image_size):
    """fvcore.nn.FlopCountAnalysis: the operators of a traced graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions when imported, which torch deprecates
        from fvcore.nn import FlopCountAnalysis, flop_count_table, parameter_count
    network = _copy(model)
    analysis = FlopCountAnalysis(network, _input(network, image_size))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inclusive = analysis.by_module_and_operator()
    counts = _by_cause(_exclusive(inclusive))
    extra = {path: {"by_operator": {name: _whole(n) for name, n in ops.items()}} for path, ops in inclusive.items()}
    return Profile(
        tool="fvcore",
        version=version("fvcore"),
        macs=_whole(analysis.total()),
        counts=counts,
        rows=_rows(model, counts, extra),
        text=lambda max_depth: flop_count_table(analysis, max_depth=1000 if max_depth is None else max_depth),
        parameters=parameter_count(network)[""],
        by_operator={name: _whole(n) for name, n in analysis.by_operator().items()},
        remarks=('fvcore\'s table says "flops": they are MACs.',),
    )


@COUNTERS.register("ptflops")
def count_ptflops(model, image_size):
    """ptflops.get_model_complexity_info with its default (PyTorch) back end: hooks on modules, and patched functions."""
    from ptflops import get_model_complexity_info, pytorch_ops

    network = _copy(model)
    counts, running = defaultdict(int), [""]
    paths = {module: path for path, module in network.named_modules()}
    for path, module in network.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: running.append(path))
        module.register_forward_hook(_popping(running))

    def on_module(hook):
        def record(module, inputs, output):
            before = module.__flops__
            hook(module, inputs, output)
            macs = module.__flops__ - before
            path, cause = paths[module], _cause_of_module(module)
            if cause in PRODUCTS and getattr(module, "bias", None) is not None:
                counts[path, "bias"] += output.numel()  # its formula for a layer is the products and one for each output
                macs -= output.numel()
            counts[path, cause] += macs

        return record

    def on_function(op, handler):
        def record(*args, **kwargs):
            macs = int(handler(*args, **kwargs))
            counts[running[-1], _cause_of_function(op)] += macs
            return macs

        return record

    functions = {op: on_function(op, handler) for op, handler in pytorch_ops.FUNCTIONAL_MAPPING.items()}
    tensor_ops = {op: on_function(op, handler) for op, handler in pytorch_ops.TENSOR_OPS_MAPPING.items()}
    out = io.StringIO()
    with (
        torch.no_grad(),
        _replaced(pytorch_ops.FUNCTIONAL_MAPPING, functions),
        _replaced(pytorch_ops.TENSOR_OPS_MAPPING, tensor_ops),
        _tensor_methods_restored(),
        contextlib.redirect_stdout(out),
    ):
        macs, parameters = get_model_complexity_info(
            network,
            (3, image_size, image_size),
            as_strings=False,
            print_per_layer_stat=True,
            ost=out,
            custom_modules_hooks={cls: on_module(hook) for cls, hook in pytorch_ops.MODULES_MAPPING.items()},
        )
    if macs is None:  # it prints the traceback of a failure and goes on
        raise RuntimeError(f"ptflops could not count the model:\n{out.getvalue()}")
    return Profile(
        tool="ptflops",
        version=version("ptflops"),
        macs=_whole(macs),
        counts=dict(counts),
        rows=_rows(model, counts),
        text=lambda max_depth: _cut(out.getvalue(), max_depth),
        parameters=parameters,
        remarks=(
            "ptflops' table leaves out what its patched functions count, its total has it: ReLU and pooling modules twice.",
            "Its parameters are the trainable ones only.",
        ),
    )


def _popping(stack):
    def hook(*_):
        stack.pop()

    return hook


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


@COUNTERS.register("thop")
def count_thop(model, image_size):
    """thop.profile: hooks on the leaves of the module tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # distutils, which it imports for a version check
        from thop import profile
    network = _copy(model)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        macs, parameters, tree = profile(network, (_input(network, image_size),), verbose=False, ret_layer_info=True)
    modules = dict(model.named_modules())
    counts = {}

    def walk(children, prefix):
        for name, (ops, _, inner) in children.items():
            path = prefix + name
            if inner:
                walk(inner, f"{path}.")
            elif ops:
                counts[path, _cause_of_module(modules[path])] = _whole(ops)

    walk(tree, "")
    rows = _rows(model, counts)
    return Profile(
        tool="thop",
        version=version("thop"),
        macs=_whole(macs),
        counts=counts,
        rows=rows,
        text=lambda max_depth: _module_table(rows, max_depth),
        parameters=_whole(parameters),
        remarks=('thop prints no table: this one is drawn from what its profile() returns; its "ops" are MACs.',),
    )


@COUNTERS.register("torchscan")
def count_torchscan(model, image_size, fields=None):
    """torchscan.crawl_module: formulas for the leaves of the module tree.

    `fields` are our receptive fields ({layer: Field}); they take the place of torchscan's own, which are each layer's kernel.
    """
    from torchscan import crawl_module
    from torchscan.utils import aggregate_info, format_info

    network = _copy(model)
    report = crawl_module(network, args=(_input(network, image_size),))
    modules, counts, extra, dmas = dict(model.named_modules()), defaultdict(int), {}, 0
    for layer in report["layers"]:
        path, metrics = layer["path"], layer["metrics"]
        known = {name: metrics[name]["known_value"] for name in ("macs", "dmas", "module_flops") if name in metrics}
        if known.get("macs"):
            counts[path, _cause_of_module(modules[path])] += _whole(known["macs"])
        dmas += known.get("dmas") or 0
        extra[path] = {
            "output_shape": layer["output"].get("shape"),
            "dmas": known.get("dmas"),
            "tool_flops": known.get("module_flops"),  # by its own formulas, not 2 · MACs
            "status": metrics["macs"]["status"] if "macs" in metrics else "container",
        }
        if fields is not None:
            size = fields[path].size if path in fields else None
            extra[path]["receptive_field"] = None if size is None else [None if s == float("inf") else s for s in size]
            metrics["receptive_field"] = {"status": "complete", "value": None if size is None else _Extent(max(size))}

    def text(max_depth):
        deepest = max(layer["depth"] for layer in report["layers"])
        view = report if max_depth is None else aggregate_info(report, min(max_depth, deepest))
        return format_info(view, receptive_field=fields is not None)

    totals = report["totals"]
    partial = sorted(
        {layer["type"] for layer in report["layers"] if layer["metrics"].get("macs", {}).get("status") == "partial"}
    )
    remarks = ['torchscan\'s "Param #" has the buffers in it, and its own FLOPs follow other formulas than 2 · MACs.']
    if partial:
        remarks.append(
            f"torchscan knows no {', '.join(partial)}: its totals are partial, and those here are the sums of its rows."
        )
    return Profile(
        tool="torchscan",
        version=version("torchscan"),
        macs=_whole(totals["macs"]["known_value"]),
        counts=dict(counts),
        rows=_rows(model, counts, extra),
        text=text,
        parameters=totals["parameters"]["value"],
        dmas=dmas,
        remarks=tuple(remarks),
    )


def report(tool, model, name, image_size, max_depth=None, **options):
    """Run one counter and write `results/complexity/<name>_complexity_<tool>.txt` and `.json`; returns the text.

    The text is the tool's own table, complete or down to `max_depth`, then the summary. `options` go to the counter.
    """
    analysis = analyse(model, image_size)
    profile = COUNTERS[tool](model, image_size, **options)
    difference = reconcile(analysis, profile.counts, profile.macs)
    device = next(model.parameters()).device
    shown = "\n".join(line.rstrip() for line in profile.text(max_depth).splitlines())
    text = "\n\n".join((shown, _summary(profile, analysis, name, device), _left_out(difference, analysis)))
    path = RESULTS / "complexity" / f"{name}_complexity_{tool}"
    write_text(path.with_name(path.name + ".txt"), text + "\n")
    write_json(path.with_name(path.name + ".json"), as_json(profile, analysis, difference, name, device))
    return f"{text}\n\nwritten to {path}.txt and .json"


def report_from_flags(tool, doc, **details):
    """What every complexity_<tool>.py does: the network that the command line names, through one counter; returns the text.

    `doc`: the docstring of the script; `details`: functions of (network, image_size) whose values go to the counter.
    """
    parser = cli.Parser(doc)
    cli.add_model(parser, list_models())
    cli.add_size(parser)
    parser.add_argument("--max_depth", type=int, check=cli.at_least(0), help="print the tool's table to this module depth only")
    cli.add_device(parser)
    args = parser.parse(cli.model_or_weights)
    network, name, image_size = network_to_count(args.model, args.weights, args.num_classes, args.image_size)
    options = {key: detail(network, image_size) for key, detail in details.items()}
    network.to(choose_device(args.device, args.cuda))
    return report(tool, network, name, image_size, args.max_depth, **options)


def as_json(profile, analysis, difference, name, device):
    """What is known of one tool's count, ready for `write_json`."""
    return {
        "tool": profile.tool,
        "version": profile.version,
        "model": name,
        "input_shape": list(analysis.input_shape),
        "device": str(device),
        "parameters": analysis.parameters | {"by the tool": profile.parameters},
        "macs": profile.macs,
        "flops": 2 * profile.macs,
        "dmas": profile.dmas,
        "exact": {"macs": analysis.macs, "flops": analysis.flops},
        "difference": difference,
        "by_operator": profile.by_operator,
        "remarks": list(profile.remarks),
        "rows": profile.rows,
    }


def _summary(profile, analysis, name, device):
    shape = "×".join(map(str, analysis.input_shape))
    parameters = analysis.parameters
    lines = [
        f"{name}, input {shape}, {device}: {profile.tool} {profile.version}",
        f"  parameters          {parameters['all']:,} ({parameters['trainable']:,} of them trainable)",
        f"  MACs                {profile.macs:,} ({si(profile.macs, 'MAC', 5)})",
        f"  FLOPs               {2 * profile.macs:,} ({si(2 * profile.macs, 'FLOP', 5)}), 1 MAC = 2 FLOPs",
        f"  weights             {analysis.weight_bytes / 2**20:.2f} MiB (parameters and buffers)",
        f"  activations         {analysis.peak_bytes / 2**20:.2f} MiB at the peak of one inference, batch 1 (our count)",
    ]
    if profile.dmas is not None:
        lines.append(f"  DMAs                {profile.dmas:,} (elements read and written, by the tool's formulas)")
    lines += [f"  {operator:<19} {macs:,} MACs" for operator, macs in (profile.by_operator or {}).items()]
    return "\n".join([*lines, *profile.remarks])


def _left_out(difference, analysis):
    rows = [
        (row["module"] or "(the network)", row["type"], row["cause"], f"{row['flops']:,}") for row in difference["left_out"]
    ]
    missed = -difference["difference"]["not counted"]
    title = f"Left out by the tool: {missed:,} FLOPs, {missed / analysis.flops:.2%} of the exact {analysis.flops:,}"
    return f"{title}\n{table(('module', 'type', 'cause', 'FLOPs'), rows, '<<<>')}" if rows else "Left out by the tool: nothing"


class _Extent(float):
    """A receptive field in pixels; the infinite one of a layer that sees the whole image prints as a word."""

    def __format__(self, spec):
        return "global" if self == float("inf") else super().__format__(spec)
