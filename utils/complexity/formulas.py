"""What every operator of an inference forward pass costs, in FLOPs.

A MAC is one multiplication with the addition that follows it; 1 MAC = 2 FLOPs. With `out` and `in` the number of elements
written and read:

    convolution    2 · out · (C_in / groups) · prod(kernel): taps on the zero padding included, as they are computed
    linear         2 · out · in_features; attention: both matrix products likewise
    bias           out: one addition each
    normalisation  batch norm 2 · in: at inference mean, variance, weight and bias are one scale and one shift a channel;
                   group, layer and instance norm, and batch norm without running statistics, 5 · in: sum, square and its sum,
                   scale and shift; length of vectors 2 · in
    activation     ReLU 1 · in (a comparison), ReLU6 and clamps 2, sigmoid 4 (negate, exp, add, divide), hard sigmoid 4
                   (multiply, add, two comparisons), SiLU 5, hard swish 5, GELU 5, softmax 5, tanh 1; exp, erf and tanh are 1
    pooling        maximum over k taps (k − 1) · out; average k · out (k − 1 additions and a division), adaptive ones by their
                   exact windows; sums and maxima over whole axes in
    elementwise    out, for every addition, multiplication, … of two tensors or of a tensor and a number, for sin and cos, and
                   for running sums; enlarging by k taps (2k − 1) · out, k being 4 for bilinear and 16 for bicubic

Views, copies, concatenation and (at inference) dropout take no FLOPs. MACs are those of convolution, linear and attention
alone, because no other work is a chain of multiply-accumulates. Work that depends on weights only, or happens once for a
channel or group, is left out.
"""

import math

from utils.core.registry import Registry

PRODUCTS = ("convolution", "linear", "attention")  # the causes that are multiply-accumulates
CAUSES = (*PRODUCTS, "bias", "normalisation", "activation", "pooling", "elementwise")

# Shapes, views and copies: bytes at the most, never FLOPs.
_VIEWS = "view _unsafe_view reshape as_strided t transpose permute expand unsqueeze squeeze select slice split split_with_sizes"
_MAKERS = "empty empty_like new_empty new_zeros zeros ones full fill arange chunk unbind alias detach"
_COPIES = "clone copy _to_copy cat stack constant_pad_nd roll index masked_fill channel_shuffle native_channel_shuffle"
_MORE_COPIES = "repeat flip unsafe_split lift_fresh reflection_pad2d im2col upsample_nearest2d"
FREE = frozenset(f"{_VIEWS} {_MAKERS} {_COPIES} {_MORE_COPIES}".split())
FORMULAS = Registry("operator")  # ATen name without overload or trailing "_" -> (args, out) -> {cause: FLOPs}


@FORMULAS.register("convolution")
def _convolution(args, out):
    image, weight, bias, transposed = args[0], args[1], args[2], args[6]
    taps = weight.shape[1] * math.prod(weight.shape[2:])  # a grouped weight holds C_in / groups already
    products = (image if transposed else out).numel() * taps
    return {"convolution": 2 * products, "bias": out.numel() if bias is not None else 0}


@FORMULAS.register("addmm")
def _addmm(args, out):
    return {"linear": 2 * out.numel() * args[1].shape[-1], "bias": out.numel()}


@FORMULAS.register("mm")
def _mm(args, out):
    return {"linear": 2 * out.numel() * args[0].shape[-1]}


@FORMULAS.register("bmm")
def _bmm(args, out):
    return {"attention": 2 * out.numel() * args[0].shape[-1]}


@FORMULAS.register("baddbmm")
def _baddbmm(args, out):
    return {"attention": 2 * out.numel() * args[1].shape[-1], "elementwise": out.numel()}


@FORMULAS.register("_scaled_dot_product_flash_attention_for_cpu")
@FORMULAS.register("_scaled_dot_product_flash_attention")
@FORMULAS.register("_scaled_dot_product_efficient_attention")
@FORMULAS.register("_scaled_dot_product_cudnn_attention")
@FORMULAS.register("_scaled_dot_product_fused_attention_overrideable")
def _attention(args, out):
    query, key, value = args[:3]  # (B, heads, length, features)
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    products = 2 * scores * (query.shape[-1] + value.shape[-1])
    return {"attention": products, "elementwise": scores, "activation": 5 * scores}  # scaling, softmax


def _per_input(cause, flops):
    return lambda args, out: {cause: flops * args[0].numel()}


def _per_output(args, out):
    return {"elementwise": out.numel()}


def _batch_norm(args, out):
    own_statistics = len(args) > 5 and args[5] is True  # `training`, as InstanceNorm calls it; a momentum stands there else
    return {"normalisation": (5 if own_statistics else 2) * args[0].numel()}


for _name in ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update"):
    FORMULAS.register(_name)(_batch_norm)
for _name in ("native_group_norm", "native_layer_norm"):
    FORMULAS.register(_name)(_per_input("normalisation", 5))
FORMULAS.register("linalg_vector_norm")(_per_input("normalisation", 2))
FORMULAS.register("col2im")(_per_input("elementwise", 1))  # overlapping windows are added up
for _flops, _names in {
    1: "relu tanh",
    2: "hardtanh clamp clamp_min clamp_max relu6 leaky_relu",
    4: "sigmoid hardsigmoid",
    5: "silu hardswish gelu _softmax _safe_softmax",
}.items():
    for _name in _names.split():
        FORMULAS.register(_name)(_per_input("activation", _flops))
for _names in ("add sub mul div rsub neg sqrt rsqrt exp pow", "eq ne bitwise_not sin cos cumsum"):
    for _name in _names.split():
        FORMULAS.register(_name)(_per_output)


def _taps(count):
    return lambda args, out: {"elementwise": (2 * count - 1) * out.numel()}


FORMULAS.register("upsample_bilinear2d")(_taps(4))
FORMULAS.register("upsample_bicubic2d")(_taps(16))
FORMULAS.register("addcmul")(lambda args, out: {"elementwise": 2 * out.numel()})


def _pair(value):
    return tuple(value) * (2 // len(value)) if isinstance(value, (list, tuple)) else (value, value)


@FORMULAS.register("max_pool2d_with_indices")
def _max_pool(args, out):
    return {"pooling": (math.prod(_pair(args[1])) - 1) * out.numel()}


@FORMULAS.register("avg_pool2d")
def _avg_pool(args, out):
    return {"pooling": math.prod(_pair(args[1])) * out.numel()}


for _name in ("mean", "sum", "amax", "max"):
    FORMULAS.register(_name)(_per_input("pooling", 1))


@FORMULAS.register("_adaptive_avg_pool2d")
def _adaptive_pool(args, out):
    planes = out.numel() // math.prod(out.shape[-2:])
    return {"pooling": planes * math.prod(map(_window_sizes, args[0].shape[-2:], out.shape[-2:]))}


def _window_sizes(size, bins):
    """Sum over the bins of the taps in each: bin i runs from floor(i · size / bins) to ceil((i + 1) · size / bins)."""
    return sum(-(-(i + 1) * size // bins) - i * size // bins for i in range(bins))
