"""Receptive fields by analysis of the exported graph: a rule for each operator, from the image to every layer.

`RULES` maps the name of an aten operator to a function of the analysis, the operator's arguments and the shape of its output
(or the list of its outputs). What is not in it and keeps the shape is elementwise; the rest is noted and counted as global.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from utils.core.errors import UserError
from utils.receptive_field.spans import GLOBAL, HEIGHT, PIXEL, WIDTH, Field, Span, adaptive_window, device_of, each, inspecting

RULES = {}  # name of an aten operator, without a trailing _ -> function(analysis, arguments, output shape) -> Value


def rule(*names):
    def store(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return store


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: which image axes run along each of its dimensions, and the field of its elements per axis.

    `spans` is None for what does not depend on the image (parameters, constants).
    """

    shape: tuple
    dims: tuple  # a frozenset of HEIGHT and WIDTH a dimension
    spans: tuple | None

    def axes(self, dims):
        return frozenset().union(*(self.dims[d] for d in dims))

    def units(self, axis):
        along = [n for n, axes in zip(self.shape, self.dims, strict=True) if axis in axes]
        return along[0] if len(along) == 1 else None


def _constant(shape):
    return Value(tuple(shape), (frozenset(),) * len(shape), None)


class Analysis:
    """Walks an exported graph. `notes` collects what the reader of the result should know."""

    def __init__(self):
        self.notes = {}

    def note(self, text):
        self.notes[text] = None

    def mixed(self, value, axes):
        """`value` with the spans of these axes made global."""
        spans = tuple(GLOBAL if axis in axes else span for axis, span in enumerate(value.spans))
        return Value(value.shape, value.dims, spans)

    def window(self, value, dim, out_length, kernel, stride=1, padding=0, dilation=1):
        """`value` behind a sliding window along one dimension."""
        spans = list(value.spans)
        for axis in value.dims[dim]:
            if len(value.dims[dim]) > 1 or sum(axis in axes for axes in value.dims) > 1:
                self.note("a window slides over a dimension in which image axes are folded together: counted as global")
                spans[axis] = GLOBAL
            else:
                spans[axis] = spans[axis].window(kernel, stride, padding, dilation)
        shape = (*value.shape[:dim], out_length, *value.shape[dim + 1 :])
        return Value(shape, value.dims, tuple(spans))

    def join(self, values, shape):
        """Elementwise combination, broadcast to `shape`."""
        values = [value for value in values if value.spans]
        if not values:
            return _constant(shape)
        dims, spans = [frozenset()] * len(shape), [None, None]
        for value in values:
            offset = len(shape) - len(value.shape)
            spread = set()  # axes of which one place is handed to all places
            for d, axes in enumerate(value.dims):
                if value.shape[d] == shape[d + offset]:
                    dims[d + offset] |= axes
                else:
                    spread |= axes
            for axis, span in enumerate(value.spans):
                span = GLOBAL if axis in spread else span
                try:
                    spans[axis] = span if spans[axis] is None else spans[axis].union(span)
                except ValueError as fault:
                    self.note(f"{fault}: counted as global")
                    spans[axis] = GLOBAL
        return Value(tuple(shape), tuple(dims), tuple(spans))

    def regroup(self, value, shape):
        """`value` reshaped: dimensions that are split or merged hand their axes to all that take their place."""
        old, new = value.shape, tuple(shape)
        dims, i, j = [frozenset()] * len(new), 0, 0
        while i < len(old) or j < len(new):
            left, right = (old[i] if i < len(old) else 1), (new[j] if j < len(new) else 1)
            if left == 1 != right or j == len(new):  # a dimension of one place goes: its axes stay with the one before
                if new:
                    dims[max(j - 1, 0)] |= value.dims[i]
                i += 1
            elif right == 1 != left or i == len(old):
                j += 1
            else:
                first_i, first_j, i, j = i, j, i + 1, j + 1
                while left != right:
                    if left < right:
                        left, i = left * old[i], i + 1
                    else:
                        right, j = right * new[j], j + 1
                for d in range(first_j, j):
                    dims[d] |= value.axes(range(first_i, i))
        return Value(new, tuple(dims), value.spans)

    def unknown(self, name, values, shape):
        self.note(f"aten.{name} is not followed: counted as global")
        spans = (GLOBAL, GLOBAL) if any(value.spans for value in values) else None
        return Value(tuple(shape), (frozenset(),) * len(shape), spans)

    def run(self, program):
        """{node: Value, or a list of them} of an ExportedProgram whose one input is the image."""
        image = set(program.graph_signature.user_inputs)
        results = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                shape = tuple(getattr(node.meta.get("val"), "shape", ()))
                results[node] = _constant(shape)
                if node.name in image:
                    axes = (frozenset(), frozenset(), frozenset({HEIGHT}), frozenset({WIDTH}))
                    results[node] = Value(shape, axes, (PIXEL, PIXEL))
            elif node.op == "get_attr":
                results[node] = _constant(getattr(node.meta.get("val"), "shape", ()))
            elif node.op == "call_function":
                results[node] = self.call(node, results)
        return results

    def call(self, node, results):
        if node.target.__name__ == "getitem":
            return results[node.args[0]][node.args[1]]
        outputs = node.meta.get("val")
        shape = tuple(getattr(outputs, "shape", ()))
        values = [results[n] for n in node.all_input_nodes]
        if not any(value.spans for v in values for value in (v if isinstance(v, list) else [v])):
            return [_constant(o.shape) for o in outputs] if isinstance(outputs, (list, tuple)) else _constant(shape)
        name = node.target._schema.name.split("::")[-1].rstrip("_")
        if name in RULES:
            return RULES[name](self, _arguments(node, results), shape if not isinstance(outputs, (list, tuple)) else outputs)
        if isinstance(outputs, (list, tuple)):
            return [self.unknown(name, values, o.shape) for o in outputs]
        try:
            fits = tuple(torch.broadcast_shapes(*(v.shape for v in values if v.spans))) == shape
        except RuntimeError:
            fits = False
        return self.join(values, shape) if fits else self.unknown(name, values, shape)


def _arguments(node, results):
    """The operator's arguments by name, defaults filled in, tensors as their Values."""

    def lookup(argument):
        if isinstance(argument, torch.fx.Node):
            return results[argument]
        return [lookup(a) for a in argument] if isinstance(argument, (list, tuple)) else argument

    given = SimpleNamespace()
    for i, argument in enumerate(node.target._schema.arguments):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        setattr(given, argument.name, lookup(value))
    return given


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(analysis, a, shape):
    if getattr(a, "transposed", False):
        return analysis.unknown("convolution (transposed)", [a.input], shape)
    kernel = a.weight.shape[2:]
    n = len(kernel)
    dilation = each(a.dilation, n)
    if isinstance(a.padding, str):
        same = a.padding == "same"
        padding = [d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True)]
    else:
        padding = each(a.padding, n)
    value = a.input
    for i, (k, s, p, d) in enumerate(zip(kernel, each(a.stride, n), padding, dilation, strict=True)):
        value = analysis.window(value, len(shape) - n + i, shape[len(shape) - n + i], k, s, p, d)
    return Value(shape, value.dims, value.spans)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices")
def _pooling(analysis, a, outputs):
    shapes = [outputs] if isinstance(outputs[0], int) else [tuple(o.shape) for o in outputs]
    shape, value = shapes[0], a.self
    n = len(a.kernel_size) if len(a.kernel_size) > 1 else len(shape) - 2
    columns = (a.kernel_size, a.stride or a.kernel_size, a.padding, getattr(a, "dilation", 1))
    for i, (k, s, p, d) in enumerate(zip(*(each(column, n) for column in columns), strict=True)):
        dim = len(shape) - n + i
        value = analysis.window(value, dim, shape[dim], k, s, p, d)
    return value if len(shapes) == 1 else [value] * len(shapes)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def _adaptive_pooling(analysis, a, outputs):
    shapes = [outputs] if isinstance(outputs[0], int) else [tuple(o.shape) for o in outputs]
    shape, value = shapes[0], a.self
    for dim in range(len(shape) - len(a.output_size), len(shape)):
        kernel = adaptive_window(value.shape[dim], shape[dim])
        if kernel:
            value = analysis.window(value, dim, shape[dim], kernel, kernel)
        else:
            if shape[dim] > 1:
                sizes = f"{value.shape[dim]} to {shape[dim]}"
                analysis.note(f"an adaptive pooling of {sizes} has windows of different widths: counted as global")
            value = analysis.mixed(value, value.dims[dim])
    value = Value(shape, value.dims, value.spans)
    return value if len(shapes) == 1 else [value] * len(shapes)


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "argmax", "prod", "logsumexp", "norm")
def _reduction(analysis, a, outputs):
    value = a.self
    if hasattr(a, "other"):  # max and min of two tensors
        return analysis.join([value, a.other], outputs)
    n = len(value.shape)
    dims = getattr(a, "dim", None)
    dims = range(n) if dims in (None, []) else [d % n for d in each(dims, 1)]
    value = analysis.mixed(value, value.axes(dims))
    keep = getattr(a, "keepdim", False)
    left = tuple(axes for d, axes in enumerate(value.dims) if keep or d not in dims)
    if outputs and not isinstance(outputs[0], int):
        return [Value(tuple(o.shape), left, value.spans) for o in outputs]
    return Value(tuple(outputs), left, value.spans)


@rule("linear")
def _linear(analysis, a, shape):
    value = analysis.mixed(a.input, a.input.dims[-1])
    return Value(shape, (*value.dims[:-1], frozenset()), value.spans)


@rule("addmm", "matmul", "mm", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")
def _products(analysis, a, shape):
    """Products that contract: simple ones keep what they do not touch, all else mixes every place with every other."""
    values = [v for item in vars(a).values() for v in (item if isinstance(item, list) else [item]) if isinstance(v, Value)]
    seen = [value for value in values if value.spans]
    left = getattr(a, "self", None)
    if len(seen) == 1 and left is seen[0] and not left.dims[-1] and len(left.shape) == len(shape):
        return Value(shape, left.dims, left.spans)
    if any(axes and sum(axis in other for other in value.dims) > 1 for value in seen for axes in value.dims for axis in axes):
        analysis.note("attention inside of windows is not followed: counted as global")
    axes = frozenset().union(*(value.axes(range(len(value.shape))) for value in seen))
    spans = tuple(GLOBAL if axis in axes else seen[0].spans[axis] for axis in (HEIGHT, WIDTH))
    return Value(tuple(shape), (frozenset(),) * len(shape), spans)


@rule("softmax", "_softmax", "log_softmax", "cumsum", "roll", "flip", "sort")
def _along(analysis, a, shape):
    value = a.self
    dims = getattr(a, "dims", None) or [getattr(a, "dim", -1)]
    return analysis.mixed(value, value.axes([d % len(shape) for d in dims]))


@rule("group_norm", "instance_norm", "layer_norm", "native_layer_norm", "native_group_norm")
def _statistics(analysis, a, outputs):
    value = a.input
    over = len(getattr(a, "normalized_shape", ())) or len(value.shape) - 1
    axes = value.axes(range(len(value.shape) - over, len(value.shape)))
    if any(value.spans[axis].size < math.inf for axis in axes):
        analysis.note("a normalisation takes statistics of the whole map, which makes its field global: taken as local here")
    return value if isinstance(outputs[0], int) else [value] * len(outputs)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as")
def _reshape(analysis, a, shape):
    return analysis.regroup(a.self, shape)


@rule("expand", "expand_as", "repeat")
def _expand(analysis, a, shape):
    return analysis.join([a.self], shape)


@rule("permute", "transpose", "swapaxes", "swapdims", "movedim", "t", "numpy_T", "mT")
def _permute(analysis, a, shape):
    value = a.self
    places = torch.empty(value.shape, device="meta")  # asks torch itself where the dimensions go
    places = places.as_strided(value.shape, list(range(1, len(value.shape) + 1)))
    if hasattr(a, "dims"):
        places = places.permute(a.dims)
    elif hasattr(a, "source"):
        places = places.movedim(a.source, a.destination)
    else:
        pair = (getattr(a, "dim0", getattr(a, "axis0", -2)), getattr(a, "dim1", getattr(a, "axis1", -1)))
        places = places.transpose(*pair) if len(value.shape) > 1 else places
    return Value(tuple(shape), tuple(value.dims[stride - 1] for stride in places.stride()), value.spans)


@rule("cat", "concat", "concatenate", "stack")
def _concatenate(analysis, a, shape):
    dim = a.dim % len(shape)
    values = [value for value in a.tensors if value.spans]
    if len(values[0].shape) < len(shape):  # stack
        values = [analysis.regroup(value, (*shape[:dim], 1, *shape[dim + 1 :])) for value in values]
    if any(len(value.dims[dim]) == 1 for value in values):
        analysis.note("maps are joined side by side along an image axis: counted as global")
        values = [analysis.mixed(value, value.dims[dim]) for value in values]
    same = [Value((*shape[:dim], shape[dim], *shape[dim + 1 :]), value.dims, value.spans) for value in values]
    return analysis.join(same, shape)


def _shifted(value, dim, first, step, length):
    """Every `step`-th place from `first` on along one dimension."""
    spans = list(value.spans)
    for axis in value.dims[dim]:
        span = spans[axis]
        if span.jump is not None:
            shift = first * span.jump
            spans[axis] = Span(span.start + shift, span.end + shift, span.jump * step)
    return Value((*value.shape[:dim], length, *value.shape[dim + 1 :]), value.dims, tuple(spans))


@rule("slice")
def _slice(analysis, a, shape):
    value = a.self
    dim = a.dim % len(shape)
    first = min(max(a.start + value.shape[dim] * (a.start < 0), 0), value.shape[dim]) if a.start else 0
    return _shifted(value, dim, first, a.step, shape[dim])


@rule("select")
def _select(analysis, a, shape):
    value = a.self
    dim = a.dim % len(value.shape)
    value = _shifted(value, dim, a.index % value.shape[dim], 1, 1)
    return Value(shape, value.dims[:dim] + value.dims[dim + 1 :], value.spans)


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")
def _split(analysis, a, outputs):
    value, parts, first = a.self, [], 0
    dim = a.dim % len(value.shape)
    for output in outputs:
        parts.append(_shifted(value, dim, first, 1, output.shape[dim]))
        first += output.shape[dim]
    return parts


@rule("unbind")
def _unbind(analysis, a, outputs):
    return [_select(analysis, SimpleNamespace(**vars(a), index=i), tuple(o.shape)) for i, o in enumerate(outputs)]


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def _pad(analysis, a, shape):
    value = a.self
    pads = getattr(a, "pad", None) or a.padding
    for i in range(0, len(pads), 2):
        dim = len(shape) - 1 - i // 2
        value = _shifted(value, dim, -pads[i], 1, shape[dim])
    return value


@rule("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
def _filled(analysis, a, shape):
    return _constant(shape)


@rule("pixel_unshuffle")
def _pixel_unshuffle(analysis, a, shape):
    value, r = a.self, a.downscale_factor
    for dim in (len(shape) - 2, len(shape) - 1):
        value = analysis.window(value, dim, shape[dim], r, r)
    return Value(shape, value.dims, value.spans)


def analytic_fields(model, image_size):
    """`receptive_fields`, and what there is to say about them: ({name: Field}, [note, …])."""
    device = device_of(model)
    with inspecting(model), torch.no_grad():
        try:
            program = torch.export.export(model, (torch.zeros(1, 3, image_size, image_size, device=device),), strict=False)
        except Exception as error:  # whatever a model's forward or the tracer may raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the graph of this model cannot be exported at {image_size} px ({reason}); "
                "try --method gradient or another --image_size"
            ) from None
    analysis = Analysis()
    results = analysis.run(program)
    fields = {}
    for name, node in _module_outputs(program.graph).items():
        value = results[node]
        if isinstance(value, Value) and value.spans:
            fields[name] = Field(*value.spans, (value.units(HEIGHT), value.units(WIDTH)))
    return fields, list(analysis.notes)


def _module_outputs(graph):
    """{module name: the node that leaves its last call}, in the order in which modules finish."""
    calls, last = {}, {}
    for node in graph.nodes:
        for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items():
            calls.setdefault(key, []).append(node)
            last[name] = key
    outputs = {}
    for name, key in last.items():
        members = set(calls[key])
        leaving = [node for node in calls[key] if any(user not in members for user in node.users)]
        if name and leaving:
            outputs[name] = leaving[-1]
    order = {node: i for i, node in enumerate(graph.nodes)}
    return dict(sorted(outputs.items(), key=lambda item: (order[item[1]], -item[0].count("."))))
