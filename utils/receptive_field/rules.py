"""What each aten operator does to receptive fields: the table of rules that graph.py applies."""

import math
from types import SimpleNamespace

import torch

from utils.receptive_field.graph import Value, constant, rule
from utils.receptive_field.spans import GLOBAL, HEIGHT, WIDTH, Span, adaptive_window, each


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed_convolution(analysis, a, shape):
    return analysis.unknown("convolution (transposed)", [a.input], shape)


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _convolution(analysis, a, shape):
    if getattr(a, "transposed", False):
        return _transposed_convolution(analysis, a, shape)
    kernel = a.weight.shape[2:]
    n = len(kernel)
    dilation = each(a.dilation, n)
    if isinstance(a.padding, str):
        same = a.padding == "same"
        padding = [d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True)]
    else:
        padding = each(a.padding, n)
    value = _over_channels(analysis, a.input, a.weight, len(shape) - n - 1, shape)
    for i, (k, s, p, d) in enumerate(zip(kernel, each(a.stride, n), padding, dilation, strict=True)):
        value = analysis.window(value, len(shape) - n + i, shape[len(shape) - n + i], k, s, p, d)
    return Value(shape, value.dims, value.spans)


def _over_channels(analysis, value, weight, channels, shape):
    """`value` after the sum over its channels: image axes that run along them, as of tokens, are mixed."""
    if not value.dims[channels] or (weight.shape[1] == 1 and value.shape[channels] == shape[channels]):  # or each alone
        return value
    value = analysis.mixed(value, value.dims[channels])
    return Value(value.shape, (*value.dims[:channels], frozenset(), *value.dims[channels + 1 :]), value.spans)


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


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "var_mean",
    "argmax",
    "prod",
    "logsumexp",
    "norm",
    "linalg_vector_norm",
)
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
        if getattr(a, "mode", "constant") == "circular" and any(pads[i : i + 2]) and value.dims[dim]:
            analysis.note("circular padding brings opposite borders together: counted as global")
            value = analysis.mixed(value, value.dims[dim])
        value = _shifted(value, dim, -pads[i], 1, shape[dim])
    return value


@rule(
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "_assert_tensor_metadata",
)
def _filled(analysis, a, shape):
    return constant(shape)


@rule("pixel_unshuffle")
def _pixel_unshuffle(analysis, a, shape):
    value, r = a.self, a.downscale_factor
    for dim in (len(shape) - 2, len(shape) - 1):
        value = analysis.window(value, dim, shape[dim], r, r)
    return Value(shape, value.dims, value.spans)
