"""Walks an exported graph, operator by operator, with the receptive field of every tensor in it.

`RULES` maps the name of an aten operator to a function of the analysis, the operator's arguments and the shape of its output
(or the list of its outputs). What torch tags as pointwise, or `ELEMENTWISE` names, combines its inputs element by element;
the rest is noted and counted as global.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from utils.receptive_field.spans import GLOBAL, HEIGHT, PIXEL, WIDTH

# Elementwise at inference, but without torch's tag for it.
# fmt: off
ELEMENTWISE = {
    "batch_norm", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "contiguous", "to", "_to_copy",
    "type_as", "alias", "detach", "lift_fresh", "lift_fresh_copy", "copy", "conj", "_conj", "resolve_conj", "real", "imag",
    "hardswish", "prelu", "_prelu_kernel", "log_sigmoid", "divide", "multiply", "subtract", "negative", "absolute",
    "special_erf", "special_expit", "fill", "zero", "tril", "triu", "bernoulli", "fake_quantize_per_tensor_affine",
}
# fmt: on
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

    def dim(self, axis):
        """The dimension that one axis has to itself; None where it has none, several, or shares one with the other axis."""
        along = [d for d, axes in enumerate(self.dims) if axis in axes]
        return along[0] if len(along) == 1 and len(self.dims[along[0]]) == 1 else None


def constant(shape):
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
            return constant(shape)
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

        def given(node):
            shape = tuple(getattr(node.meta.get("val"), "shape", ()))
            if node.name not in image:
                return constant(shape)
            return Value(shape, (frozenset(), frozenset(), frozenset({HEIGHT}), frozenset({WIDTH})), (PIXEL, PIXEL))

        return self.walk(program.graph_module, given)

    def walk(self, module, given):
        """{node: Value, or a list of them} of a torch.fx.GraphModule; `given` tells the Value of each of its inputs."""
        results = {}
        for node in module.graph.nodes:
            if node.op == "placeholder":
                results[node] = given(node)
            elif node.op == "get_attr":
                results[node] = constant(getattr(node.meta.get("val"), "shape", ()))
            elif node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
                results[node] = self.inner(node, results, module)
            elif node.op == "call_function":
                results[node] = self.call(node, results)
        return results

    def inner(self, node, results, module):
        """The Values that a graph inside of the graph returns, as of what runs under an autocast of its own."""
        at = next(i for i, value in enumerate(node.args) if getattr(value, "op", None) == "get_attr")
        graph_module, inputs = getattr(module, node.args[at].target), iter(node.args[at + 1 :])
        inside = self.walk(graph_module, lambda _: results[next(inputs)])
        (output,) = graph_module.graph.find_nodes(op="output")
        return [inside[value] for value in output.args[0]]

    def call(self, node, results):
        if node.target.__name__ == "getitem":
            return results[node.args[0]][node.args[1]]
        outputs = node.meta.get("val")
        shape = tuple(getattr(outputs, "shape", ()))
        values = [results[n] for n in node.all_input_nodes]
        if not any(value.spans for v in values for value in (v if isinstance(v, list) else [v])):
            return [constant(o.shape) for o in outputs] if isinstance(outputs, (list, tuple)) else constant(shape)
        name = node.target._schema.name.split("::")[-1].rstrip("_")
        if name in RULES:
            return RULES[name](self, _arguments(node, results), shape if not isinstance(outputs, (list, tuple)) else outputs)
        if isinstance(outputs, (list, tuple)):
            return [self.unknown(name, values, o.shape) for o in outputs]
        try:
            fits = tuple(torch.broadcast_shapes(*(v.shape for v in values if v.spans))) == shape
        except RuntimeError:
            fits = False
        return self.join(values, shape) if fits and _elementwise(name) else self.unknown(name, values, shape)


def _elementwise(name):
    """Whether an aten operator combines its inputs element by element; operators in place do not always have the tag."""
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    return name in ELEMENTWISE or any(torch.Tag.pointwise in overload.tags for overload in overloads)


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
