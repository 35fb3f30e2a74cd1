"""Theoretical receptive fields of a network's layers: by analysis of its exported graph, and by gradient.

A field is kept per axis as a `Span`: unit i of a layer's output sees the pixels `start + i·jump` to `end + i·jump` of the
input, and no others. Pixels count from 0 at the top left; a start under 0 lies in the padding. The relations are those of
Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.

What both methods take as given:

* The field is that of the architecture: weights that happen to be zero do not shrink it.
* Where branches meet, the field is the smallest interval that holds theirs.
* It is global (infinite) where a unit sees the whole image whatever its size: behind a global pooling, a squeeze-excite
  gate, a linear layer over a flattened map, attention.
* An adaptive pooling is the fixed pooling that it amounts to at the given image size; one whose windows differ in width
  there has no fixed field and counts as global.
* Normalisation is taken as local. That is exact for BatchNorm at inference and for LayerNorm over channels; GroupNorm,
  InstanceNorm and LayerNorm over the map take statistics of the whole map, which the notes then say.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utils.errors import UserError

CAP = 8192  # px; the gradient method gives up on layers that see more


def calculate_RF(layers):
    """Receptive field, in pixels, at the end of a plain chain of layers, given as (kernel, stride) pairs from the input on.

    r = 1 + Σ (k_l − 1) · Π_{i<l} s_i: each layer adds its kernel's reach, counted in the jump that the layers *before* it
    have built up. Padding does not matter, a dilated kernel counts as k' = dilation · (k − 1) + 1. For branches, and for
    start and centre, see `receptive_fields`. Raises ValueError for a kernel or stride under 1.
    Source: Araujo et al., Distill 2019, eq. 2.

    >>> calculate_RF([(3, 1), (2, 2), (3, 1), (2, 2), (3, 1), (2, 2)])
    22
    """
    size, jump = 1, 1
    for kernel, stride in layers:
        _positive(kernel=kernel, stride=stride)
        size += (kernel - 1) * jump
        jump *= stride
    return size


def get_receptive_field(kernel_size, stride, dilation):
    """Reach, in pixels, of one layer's kernel by an older convention: k' + (k' − 1)(stride − 1), k' the dilated kernel.

    k' = dilation · (kernel_size − 1) + 1 taps that stand `stride` pixels apart reach over that many pixels; it is what a k'
    kernel sees when it *follows* a layer of that stride. A layer's own stride does not enlarge the field of its own output,
    which is k' alone: for that, and for whole networks, use `receptive_fields` (any model) or `calculate_RF` (a chain).
    Raises ValueError for an argument under 1.

    >>> [get_receptive_field(*layer) for layer in ((3, 1, 1), (5, 1, 1), (5, 2, 1), (5, 2, 2))]
    [3, 5, 9, 17]
    """
    _positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
    kernel = dilation * (kernel_size - 1) + 1
    return kernel + (kernel - 1) * (stride - 1)


def _positive(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")


@dataclass(frozen=True)
class Span:
    """A field along one axis. `jump` is None where there is one unit only, as behind a global pooling."""

    start: float  # px, of unit 0; -inf when global
    end: float  # px, of unit 0, inclusive; inf when global
    jump: int | None  # px from one unit to the next
    capped: bool = False  # the measurement stopped at its cap: the field has this size or more

    @property
    def size(self):
        """Pixels seen, `math.inf` when global."""
        return self.end - self.start + 1

    @property
    def centre(self):
        """Middle of unit 0's field, in pixels; None when there is none."""
        return None if math.isinf(self.size) or self.capped else (self.start + self.end) / 2

    def of_unit(self, index):
        """First and last pixel that unit `index` sees; infinite when global."""
        shift = index * (self.jump or 0)
        return self.start + shift, self.end + shift

    def window(self, kernel, stride=1, padding=0, dilation=1):
        """The span behind a convolution or pooling of this kernel, along this axis."""
        if self.jump is None:
            return self
        reach = (kernel - 1) * dilation - padding
        return Span(self.start - padding * self.jump, self.end + reach * self.jump, self.jump * stride)

    def union(self, other):
        """The smallest span that holds both; raises ValueError where their jumps differ."""
        if None not in (self.jump, other.jump) and self.jump != other.jump:
            raise ValueError(f"branches of jump {self.jump} and {other.jump} meet")
        jump = self.jump if other.jump is None else other.jump
        return Span(min(self.start, other.start), max(self.end, other.end), jump)


PIXEL = Span(0, 0, 1)
GLOBAL = Span(-math.inf, math.inf, None)


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer's output: one `Span` an axis, and how many units the output has along each.

    `size`, `jump`, `start` and `centre` are (height, width); `units` is too, with None where the output has no such axis.
    """

    height: Span
    width: Span
    units: tuple

    size = property(lambda self: (self.height.size, self.width.size))
    jump = property(lambda self: (self.height.jump, self.width.jump))
    start = property(lambda self: (self.height.start, self.width.start))
    centre = property(lambda self: (self.height.centre, self.width.centre))


def receptive_fields(model, image_size):
    """Field of every layer: {name as in `model.named_modules()`: Field}, in the order of execution, by graph analysis.

    `model` takes (1, 3, image_size, image_size) and is left as it was. A module called more than once has the field of its
    last call; modules that compute nothing at inference (Identity, StochasticDepth) are left out. Raises UserError for a
    model that torch.export refuses.
    """
    return analytic_fields(model, image_size)[0]


@contextmanager
def _inspecting(model):
    """Inference mode of every module and no gradients to parameters, put back as they were afterwards."""
    training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def _device(model):
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


# ---------------------------------------------------------------- by analysis of the exported graph

HEIGHT, WIDTH = 0, 1
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


def _each(value, n):
    """A number, or a list of one or n, as n numbers."""
    value = list(value) if isinstance(value, (list, tuple)) else [value]
    return value * n if len(value) == 1 else value


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(analysis, a, shape):
    if getattr(a, "transposed", False):
        return analysis.unknown("convolution (transposed)", [a.input], shape)
    kernel = a.weight.shape[2:]
    n = len(kernel)
    dilation = _each(a.dilation, n)
    if isinstance(a.padding, str):
        same = a.padding == "same"
        padding = [d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True)]
    else:
        padding = _each(a.padding, n)
    value = a.input
    for i, (k, s, p, d) in enumerate(zip(kernel, _each(a.stride, n), padding, dilation, strict=True)):
        value = analysis.window(value, len(shape) - n + i, shape[len(shape) - n + i], k, s, p, d)
    return Value(shape, value.dims, value.spans)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices")
def _pooling(analysis, a, outputs):
    shapes = [outputs] if isinstance(outputs[0], int) else [tuple(o.shape) for o in outputs]
    shape, value = shapes[0], a.self
    n = len(a.kernel_size) if len(a.kernel_size) > 1 else len(shape) - 2
    columns = (a.kernel_size, a.stride or a.kernel_size, a.padding, getattr(a, "dilation", 1))
    for i, (k, s, p, d) in enumerate(zip(*(_each(column, n) for column in columns), strict=True)):
        dim = len(shape) - n + i
        value = analysis.window(value, dim, shape[dim], k, s, p, d)
    return value if len(shapes) == 1 else [value] * len(shapes)


def adaptive_window(length, out_length):
    """Kernel (= stride) of the fixed pooling that an adaptive one amounts to; None for one that has no fixed window."""
    return length // out_length if out_length > 1 and length % out_length == 0 else None


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
    dims = range(n) if dims in (None, []) else [d % n for d in _each(dims, 1)]
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
    device = _device(model)
    with _inspecting(model), torch.no_grad():
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


# ---------------------------------------------------------------- by gradient

# Functions of each place alone (of all its channels): their support is that of the identity.
# fmt: off
LOCAL = {
    "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "hardtanh",
    "hardswish", "hardsigmoid", "sigmoid", "tanh", "clamp", "clip", "neg", "abs", "exp", "log", "sqrt", "rsqrt",
    "square", "pow", "batch_norm", "layer_norm", "group_norm", "instance_norm", "local_response_norm", "dropout",
    "dropout2d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "contiguous", "clone",
}
# fmt: on
SUMS = {"add": torch.add, "sub": torch.add, "rsub": torch.add, "mul": torch.add, "div": torch.add, "truediv": torch.add}


class _Boxes(TorchFunctionMode):
    """Runs a network's forward with every filter replaced by a box along one axis, the other axis being one pixel wide.

    Convolution is the mean over its channels and a box filter, pooling a box filter, a linear layer the mean over its
    inputs; normalisation and activation are the identity; differences, products and quotients are sums; what would write in
    place does not. So all derivatives are positive, nothing cancels, and a field along one axis does not depend on the
    other. `edges` (2, samples) are what padding holds before the first place and behind the last. `adaptive` holds the fixed
    window of each adaptive pooling in turn; None records them.
    """

    def __init__(self, axis, edges, adaptive=None):
        super().__init__()
        self.axis, self.edges, self.renewed = axis, edges, {}
        self.recording = adaptive is None
        self.adaptive = [] if self.recording else list(adaptive)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        plain = name.strip("_")
        in_place = name.endswith("_") and not name.endswith("__")
        if name.startswith("__i") and plain[1:] in SUMS:
            plain, in_place = plain[1:], True
        args, kwargs = self.latest(args), self.latest(kwargs or {})
        result = self.replace(function, plain, args, kwargs)
        if in_place and plain in SUMS:
            self.renewed[id(args[0])] = args[0], result  # the old one is kept, so that its id stays its own
        return result

    def replace(self, function, plain, args, kwargs):
        if plain in LOCAL:
            x = args[0] if args else kwargs["input"]
            same = x.view_as(x)  # of its own, as it may be added to in place where x may not
            same.origin = getattr(x, "origin", x)
            return same
        if plain in SUMS and len(args) > 1:
            return self.sum(function, args, plain)
        handler = getattr(self, "do_" + plain, None)
        return handler(*args, **kwargs) if handler else function(*args, **kwargs)

    def latest(self, value):
        """`value` with every tensor that was added to in place as it is by now."""
        if isinstance(value, torch.Tensor):
            while id(value) in self.renewed:
                value = self.renewed[id(value)][1]
            return value
        if isinstance(value, dict):
            return {key: self.latest(item) for key, item in value.items()}
        return type(value)(map(self.latest, value)) if type(value) in (tuple, list) else value

    def sum(self, function, args, plain):
        seen = [a for a in args[:2] if isinstance(a, torch.Tensor) and a.requires_grad]
        if not seen:
            return function(*args)
        shape = torch.broadcast_shapes(*(a.shape for a in args[:2] if isinstance(a, torch.Tensor)))
        return SUMS[plain](*seen) if len(seen) == 2 else seen[0].expand(shape)

    def of(self, value):
        """This axis' entry of a number or pair."""
        return _each(value, 2)[self.axis]

    def slide(self, x, kernel, stride=1, before=0, after=0, dilation=1):
        """Box filter along the axis, for x (..., H, W)."""
        dim = x.dim() - 2 + self.axis
        rows = x.movedim(dim, -1)
        if before or after:
            rows = self.padded(rows, before, after)
        box = rows.new_full((1, 1, kernel), 1 / kernel)
        out = F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), box, stride=stride, dilation=dilation)
        return out.reshape(*rows.shape[:-1], -1).movedim(-1, dim)

    def padded(self, rows, before, after):
        """Rows (B, …, length), longer by this much on either side; shorter where it is negative."""
        first, last = max(-before, 0), rows.shape[-1] - max(-after, 0)
        shape = [-1] + [1] * (rows.dim() - 1)
        ends = [
            edge.reshape(shape).expand(*rows.shape[:-1], max(amount, 0))
            for edge, amount in zip(self.edges, (before, after), strict=True)
        ]
        return torch.cat([ends[0], rows[..., first:last], ends[1]], -1)

    def do_conv2d(self, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        kernel, dilation = weight.shape[2 + self.axis], self.of(dilation)
        if isinstance(padding, str):
            total = dilation * (kernel - 1) if padding == "same" else 0
            before, after = total // 2, total - total // 2
        else:
            before = after = self.of(padding)
        x = input.unflatten(1, (groups, -1)).mean(2)  # (B, groups, H, W)
        x = self.slide(x, kernel, self.of(stride), before, after, dilation)
        return x.unsqueeze(2).expand(-1, -1, weight.shape[0] // groups, -1, -1).flatten(1, 2)

    def do_max_pool2d(self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        stride = self.of(stride or kernel_size)
        kernel, before, dilation = self.of(kernel_size), self.of(padding), self.of(dilation)
        length, reach = input.shape[input.dim() - 2 + self.axis], dilation * (kernel - 1) + 1
        after = before
        if ceil_mode:
            count = math.ceil((length + 2 * before - reach) / stride) + 1
            count -= (count - 1) * stride >= length + before  # a window that begins in the padding behind is left out
            after += max(0, (count - 1) * stride + reach - length - 2 * before)
        return self.slide(input, kernel, stride, before, after, dilation)

    def do_avg_pool2d(
        self, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        return self.do_max_pool2d(input, kernel_size, stride, padding, 1, ceil_mode)

    def do_adaptive_avg_pool2d(self, input, output_size, return_indices=False):
        dim = input.dim() - 2 + self.axis
        wanted = self.of(output_size)
        wanted = input.shape[dim] if wanted is None else wanted
        if self.recording:
            self.adaptive.append(adaptive_window(input.shape[dim], wanted))
            kernel = self.adaptive[-1]
        else:
            kernel = self.adaptive.pop(0)
        if kernel:
            return self.slide(input, kernel, kernel)
        shape = [-1] * input.dim()
        shape[dim] = wanted
        return input.mean(dim, keepdim=True).expand(shape)

    do_adaptive_max_pool2d = do_adaptive_avg_pool2d

    def do_getitem(self, input, index):
        places = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in [place for place in places if not isinstance(place, torch.Tensor)]:
            i = places.index(Ellipsis)
            places[i : i + 1] = [slice(None)] * (input.dim() - len(places) + 1)
        thin = 3 if self.axis == HEIGHT else 2  # of one pixel, whatever is cut out of it
        if input.dim() == 4 == len(places) and isinstance(places[thin], slice):
            places[thin] = slice(None)
            return input[tuple(places)]
        return input[index]

    def do_softmax(self, input, dim=-1, *args, **kwargs):
        return input.mean(dim, keepdim=True).expand(input.shape)

    def do_matmul(self, *values, **kwargs):
        if sum(isinstance(value, torch.Tensor) and value.requires_grad for value in values) > 1:
            raise RuntimeError("it mixes places by attention")
        return torch.matmul(*values)

    def do_scaled_dot_product_attention(self, *args, **kwargs):
        raise RuntimeError("it mixes places by attention")

    do_multi_head_attention_forward = do_einsum = do_bmm = do_scaled_dot_product_attention

    def do_view(self, input, *shape):
        return input.reshape(*shape)  # boxes are expanded over channels, which view refuses

    def do_linear(self, input, weight, bias=None):
        return input.mean(-1, keepdim=True).expand(*input.shape[:-1], weight.shape[0])

    def do_pad(self, input, pad, mode="constant", value=None):
        pad = list(pad)
        other = 2 * (self.axis == HEIGHT)  # where the amounts of the axis under test begin: width comes first
        amounts = pad[other : other + 2]
        pad[0 : min(4, len(pad))] = [0] * min(4, len(pad))
        out = F.pad(input, pad) if any(pad) else input
        if not any(amounts):
            return out
        dim = input.dim() - 2 + self.axis
        return self.padded(out.movedim(dim, -1), *amounts).movedim(-1, dim)


def _strip(model, length, fill, edges):
    """Pixels (2, 3, length) and edges (2, 2): two samples, see `_Boxes`."""
    device = _device(model)
    device = "cpu" if device.type == "meta" else device  # of the weights only the shapes are used
    pixels = torch.full((2, 3, length), fill, dtype=torch.float64, device=device)
    return pixels, torch.tensor(edges, dtype=torch.float64, device=device)


def _ones(model, length):
    return _strip(model, length, 1.0, [[0, 0], [0, 0]])


def _ends(model, length):
    """Nothing but the first place and the padding before it in one sample, the last and the padding behind it in the other.

    All weights being positive, what sees none of them has an output of exactly zero.
    """
    pixels, edges = _strip(model, length, 0.0, [[1, 0], [0, 1]])
    pixels[0, :, 0] = pixels[1, :, -1] = 1
    return pixels, edges


def _noise(model, length):
    pixels, edges = _strip(model, length, 0.0, [[0.3, 0.5], [0.7, 0.9]])
    return pixels.copy_(torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0))), edges


def _forward(model, axis, strip, adaptive=None):
    """One pass over a strip laid along an axis: the image (2, 3, …), the windows of `_Boxes`, {layer name: its output}."""
    pixels, edges = strip
    image = pixels.unsqueeze(3 if axis == HEIGHT else 2).requires_grad_()
    outputs = {}
    mode = _Boxes(axis, edges, adaptive)

    def keep(name):
        return lambda module, inputs, output: outputs.update({name: mode.latest(output)})

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with mode:
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    seen = {name: o for name, o in outputs.items() if isinstance(o, torch.Tensor) and o.requires_grad}
    return image, mode.adaptive, seen


def gradient_fields(model, image_size, cap=CAP):
    """Fields of all layers by gradient: ({name: Field}, [note, …]).

    The input begins at `image_size` and doubles for the layers whose field is cut off by its borders; a field of `cap` pixels
    or more is `capped`. Raises UserError for a model whose forward refuses other sizes of its input, or mixes places by
    attention, where units side by side need not have fields of one size.
    """
    notes = {}
    with _inspecting(model):
        try:
            noise = _noise(model, image_size)
            (_, tall, outputs), (_, wide, others) = (_forward(model, axis, noise) for axis in (HEIGHT, WIDTH))
            spans = [_axis_spans(model, HEIGHT, image_size, cap, tall, notes)]
            same = tall == wide and all(_alike(outputs[name], others.get(name)) for name in outputs)
            spans.append(spans[0] if same else _axis_spans(model, WIDTH, image_size, cap, wide, notes))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the gradient method cannot run this model ({reason}); use --method analytic") from None
    shared = [name for name in outputs if name in spans[HEIGHT] and name in spans[WIDTH]]
    return {name: Field(spans[HEIGHT][name], spans[WIDTH][name], (None, None)) for name in shared}, list(notes)


def _alike(tall, wide):
    """Whether a layer treats both axes alike: the same answer to the same noise along either."""
    return wide is not None and tall.numel() == wide.numel() and torch.allclose(tall.flatten(), wide.flatten(), rtol=1e-9)


def _axis_spans(model, axis, image_size, cap, adaptive, notes):
    """{layer name: Span} along one axis."""
    lengths = [image_size]
    while lengths[-1] < cap:
        lengths.append(min(2 * lengths[-1], cap))
    lengths.append(2 * lengths[-1])  # for a field that is smaller than the cap, but was cut off there on one side
    along, spans = {}, {}
    cut = Span(0, cap - 1, None, capped=True)
    for length in lengths:
        probe = _forward(model, axis, _ends(model, length), adaptive)[-1]
        along = along or _growing(probe, _forward(model, axis, _ends(model, 2 * length), adaptive)[-1])
        reach = {name: _reach(probe[name], dim) for name, dim in along.items() if name not in spans}
        del probe
        spans |= {name: cut for name, ends in reach.items() if ends == "both" and length >= cap}
        whole = [name for name, ends in reach.items() if ends == "none"]
        if whole:
            image, _, outputs = _forward(model, axis, _ones(model, length), adaptive)
            found = {}  # layers that change nothing have the field of the layer before them
            for name in whole:
                out = getattr(outputs[name], "origin", outputs[name])
                if id(out) not in found:
                    found[id(out)] = _measure(out, along[name], image, notes)
                spans[name] = found[id(out)]
        if len(spans) == len(along):
            break
    return {name: spans.get(name, cut) for name in along}


def _growing(short, long):
    """{layer name: the dimension that grows with the image, None for a layer that has no such}."""
    along = {}
    for name, out in short.items():
        grown = [d for d, (a, b) in enumerate(zip(out.shape, long[name].shape, strict=True)) if a != b]
        if not grown or (len(grown) == 1 and out.dim() > 2):  # in a flattened map there is no place to point at
            along[name] = grown[0] if grown else None
    return along


def _middle(out, dim):
    """The two middle places of each sample: (2, 2, …)."""
    return out if dim is None else out.narrow(dim, max(out.shape[dim] // 2 - 1, 0), min(2, out.shape[dim]))


def _reach(probe, dim):
    """Which ends of the strip, padding included, the middle units see: "none"; "both", one of them alone; or "some"."""
    if dim is None:
        ends = probe.flatten(1).any(1)[:, None]
    elif probe.shape[dim] < 2:
        return "some"
    else:
        ends = _middle(probe, dim).movedim(dim, 1).flatten(2).any(2)  # (2 ends, 2 units)
    if not ends.any():
        return "none"
    return "both" if ends.all(0).any() else "some"


def _measure(out, dim, image, notes):
    """Span of `out` by the gradient of its two middle units along `dim`, one in each sample."""
    seed = out.new_zeros(out.shape)  # not zeros_like: `out` may be expanded
    if dim is None:
        seed[:] = 1
    else:
        for sample in (0, 1):
            _middle(seed, dim)[sample].select(dim - 1, sample).fill_(1)
    (heat,) = torch.autograd.grad(out, image, seed, retain_graph=True)
    seen = [sample.nonzero().flatten().tolist() for sample in heat.sum(1).flatten(1)]
    (low, high), (next_low, next_high) = ((places[0], places[-1]) for places in seen)
    if dim is None:
        return Span(low, high, None)
    jump = next_low - low
    if next_high - high != jump:
        notes["neighbouring units of a layer have fields of different sizes: the wider is given"] = None
        high = max(high, next_high - jump)
    shift = (out.shape[dim] // 2 - 1) * jump
    return Span(low - shift, high - shift, jump)


# ---------------------------------------------------------------- both together, and the field that a trained network uses


def compare(analytic, gradient):
    """Where two results contradict each other, one sentence a layer and axis; layers that only one knows are left out."""
    faults = []
    for name in analytic:
        for axis in ("height", "width") if name in gradient else ():
            a, g = getattr(analytic[name], axis), getattr(gradient[name], axis)
            agree = a.size >= g.size if g.capped else (a.start, a.end, a.jump) == (g.start, g.end, g.jump)
            if not agree:
                faults.append(f"{name}, {axis}: {_words(a)} by analysis, {_words(g)} by gradient")
    return faults


def _words(span):
    size = f"≥ {span.size}" if span.capped else span.size
    return f"size {size}, jump {span.jump}, start {span.start}"


def effective_field(model, layer, images, batch_size=16):
    """The field that a network uses: `(heat, unit)` of the unit in the middle of a layer's output.

    heat: float64 (H, W), for each pixel the absolute derivative of the unit (of the sum of its channels), summed over
    colours and averaged over `images`, float32 (N, 3, H, W); its sum is 1. unit: (row, column), or None for a layer that
    has no map. Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    NeurIPS 2016.
    """
    kept = {}
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, inputs, output: kept.update(out=output.clone()))
    heat = torch.zeros(images.shape[-2:], dtype=torch.float64)
    try:
        with _inspecting(model):
            for batch in images.split(batch_size):
                batch = batch.clone().requires_grad_()
                model(batch)
                out = kept.pop("out")
                unit = (out.shape[2] // 2, out.shape[3] // 2) if out.dim() == 4 else None
                answer = out if unit is None else out[:, :, unit[0], unit[1]]
                (gradient,) = torch.autograd.grad(answer.sum(), batch)
                heat += gradient.abs().sum((0, 1)).double().cpu()
    finally:
        handle.remove()
    return heat / heat.sum().clamp_min(1e-300), unit


def effective_size(heat):
    """Side, in pixels, of the square as large as the area whose heat exceeds 4.55 % of the greatest (Luo et al. 2016)."""
    return math.sqrt(int((heat > (1 - 0.9545) * heat.max()).sum()))
