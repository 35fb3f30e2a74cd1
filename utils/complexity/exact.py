"""Our own exact count of a network's work and memory, and why the counting tools differ from it.

**What is counted.** One inference forward pass (eval mode, batch 1), operator by operator, as PyTorch dispatches it; the
network runs on the meta device, so shapes are real and nothing is computed. A MAC is one multiplication with the addition
that follows it; 1 MAC = 2 FLOPs. In FLOPs, with `out` and `in` the number of elements written and read:

    convolution    2 · out · (C_in / groups) · prod(kernel): taps that fall on the zero padding included, as they are computed
    linear         2 · out · in_features; attention: both matrix products likewise
    bias           out: one addition each
    normalisation  batch norm 2 · in: at inference mean, variance, weight and bias are one scale and one shift a channel;
                   group, layer and instance norm 5 · in: sum, square and its sum, scale and shift
    activation     ReLU 1 · in (a comparison), ReLU6 and clamps 2, sigmoid 4 (negate, exp, add, divide), hard sigmoid 4
                   (multiply, add, two comparisons), SiLU 5, hard swish 5, GELU 5, softmax 5, tanh 1; exp, erf and tanh are 1
    pooling        maximum over k taps (k − 1) · out; average k · out (k − 1 additions and a division), adaptive ones by their
                   exact windows
    elementwise    out, for every addition, multiplication, … of two tensors or of a tensor and a number

Views, copies, concatenation and (at inference) dropout take no FLOPs. MACs are those of convolution, linear and attention
alone: what is left is never a multiply-accumulate chain. Work that depends on weights only, or happens once for a channel or
group, is left out. An operator that is not in the table is never taken for zero in silence: it stands in `unknown`.

**Bytes.** Traffic is what the operators read and write unfused, each tensor once an operator (a convolution that fits the
cache); arithmetic intensity is FLOPs over that. Peak activation memory counts every tensor that is not a weight, the
input included: by liveness over the graph (each is freed after its last use: the least for this order of operators), and as
eager PyTorch holds them (a block's input lives on in Python until the block returns).
"""

import copy
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.build import build_model
from models.checkpoint import load_model
from utils.core.errors import UserError
from utils.core.registry import Registry

PRODUCTS = ("convolution", "linear", "attention")  # the causes that are multiply-accumulates
CAUSES = (*PRODUCTS, "bias", "normalisation", "activation", "pooling", "elementwise")

# Shapes, views and copies: bytes at the most, never FLOPs.
_VIEWS = "view _unsafe_view reshape as_strided t transpose permute expand unsqueeze squeeze select slice split split_with_sizes"
_MAKERS = "empty empty_like new_empty new_zeros zeros ones full fill arange chunk unbind alias detach"
_COPIES = "clone copy _to_copy cat stack constant_pad_nd roll index masked_fill channel_shuffle native_channel_shuffle"
FREE = frozenset(f"{_VIEWS} {_MAKERS} {_COPIES}".split())
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


for _name in ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update"):
    FORMULAS.register(_name)(_per_input("normalisation", 2))
for _name in ("native_group_norm", "native_layer_norm"):
    FORMULAS.register(_name)(_per_input("normalisation", 5))
for _flops, _names in {
    1: "relu tanh",
    2: "hardtanh clamp clamp_min clamp_max relu6",
    4: "sigmoid hardsigmoid",
    5: "silu hardswish gelu _softmax _safe_softmax",
}.items():
    for _name in _names.split():
        FORMULAS.register(_name)(_per_input("activation", _flops))
for _name in ("add", "sub", "mul", "div", "rsub", "neg", "sqrt", "rsqrt", "exp", "pow", "eq", "ne"):
    FORMULAS.register(_name)(_per_output)


def _pair(value):
    return tuple(value) * (2 // len(value)) if isinstance(value, (list, tuple)) else (value, value)


@FORMULAS.register("max_pool2d_with_indices")
def _max_pool(args, out):
    return {"pooling": (math.prod(_pair(args[1])) - 1) * out.numel()}


@FORMULAS.register("avg_pool2d")
def _avg_pool(args, out):
    return {"pooling": math.prod(_pair(args[1])) * out.numel()}


@FORMULAS.register("mean")
def _mean(args, out):
    return {"pooling": args[0].numel()}


@FORMULAS.register("_adaptive_avg_pool2d")
def _adaptive_pool(args, out):
    planes = out.numel() // math.prod(out.shape[-2:])
    return {"pooling": planes * math.prod(map(_window_sizes, args[0].shape[-2:], out.shape[-2:]))}


def _window_sizes(size, bins):
    """Sum over the bins of the taps in each: bin i runs from floor(i · size / bins) to ceil((i + 1) · size / bins)."""
    return sum(-(-(i + 1) * size // bins) - i * size // bins for i in range(bins))


@dataclass
class Layer:
    """A module and what it runs itself, its children left out."""

    module: str  # path, "" for the network itself
    type: str
    parameters: int
    output_shape: list = field(default_factory=list)
    flops: dict = field(default_factory=lambda: defaultdict(int))  # cause -> FLOPs
    bytes: int = 0  # read and written

    @property
    def macs(self):
        return sum(self.flops[cause] for cause in PRODUCTS) // 2


@dataclass
class Analysis:
    """The exact count of one network at one input shape; the conventions stand at the top of this file."""

    input_shape: tuple  # (1, 3, H, W)
    layers: list  # of Layer, in the order in which they first run
    parameters: dict  # "trainable", "all": elements
    weight_bytes: int  # parameters and buffers
    elements_moved: int  # read and written by all operators, each tensor once an operator
    bytes_moved: int
    peak_bytes: int  # activations, by liveness over the graph
    eager_peak_bytes: int  # activations, as eager PyTorch holds them
    unknown: dict  # operator -> calls: not in the table, counted as zero

    @property
    def flops_by_cause(self):
        return {cause: sum(layer.flops[cause] for layer in self.layers) for cause in CAUSES}

    @property
    def flops(self):
        return sum(self.flops_by_cause.values())

    @property
    def macs(self):
        return sum(layer.macs for layer in self.layers)

    @property
    def intensity(self):
        """FLOPs a byte of unfused traffic."""
        return self.flops / self.bytes_moved


def analyse(model, image_size):
    """Count `model` at (1, 3, image_size, image_size); the model itself is left as it is. Returns an Analysis."""
    weights = [*model.parameters(), *model.buffers()]
    network = copy.deepcopy(model).eval().to("meta")
    layers = {path: Layer(path, type(module).__name__, _own_parameters(module)) for path, module in model.named_modules()}
    recorder = _Recorder(network)
    with torch.no_grad(), recorder:
        network(recorder.follow(torch.empty(1, 3, image_size, image_size, device="meta")))
    elements = 0
    for operation in recorder.operations:
        layer = layers[operation.module]
        layer.output_shape = operation.output_shape
        layer.bytes += operation.bytes
        elements += operation.elements
        for cause, flops in operation.flops.items():
            layer.flops[cause] += flops
    ran = dict.fromkeys(operation.module for operation in recorder.operations)
    return Analysis(
        input_shape=(1, 3, image_size, image_size),
        layers=[layers[path] for path in ran],
        parameters=count_parameters(model),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        elements_moved=elements,
        bytes_moved=sum(operation.bytes for operation in recorder.operations),
        peak_bytes=recorder.peak_by_liveness(),
        eager_peak_bytes=recorder.eager_peak,
        unknown=dict(recorder.unknown),
    )


def count_parameters(model):
    """Elements of the parameters, a shared one once: {"trainable", "all"}."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all": sum(p.numel() for p in model.parameters()),
    }


def _own_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


@dataclass
class _Operation:
    module: str
    flops: dict
    output_shape: list
    elements: int
    bytes: int
    touched: set  # ids of the activation storages that it reads or writes


class _Recorder(TorchDispatchMode):
    """Notes every operator of a forward pass with the module that runs it, and follows the life of every activation."""

    def __init__(self, network):
        super().__init__()
        self.operations, self.unknown = [], Counter()
        self.eager_peak = 0
        self._storages = {}  # weak reference -> bytes. It keeps the address taken, so that an id names one storage only
        self._alive = []
        self._weights = {StorageWeakRef(t.untyped_storage()) for t in [*network.parameters(), *network.buffers()]}
        self._path = [""]
        for path, module in network.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: self._path.append(path))
            module.register_forward_hook(self._leave)

    def _leave(self, *_):
        self._path.pop()

    def follow(self, tensor):
        """Count this tensor, made outside, among the activations."""
        self._ids([tensor])
        return tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.split("::")[-1].rstrip("_")
        flops = self._flops(name, args, outputs)
        read, written = self._ids(inputs), self._ids(outputs)
        moved = [*{id(t): t for t in inputs}.values(), *outputs]
        if name in FREE and (written <= read or not inputs):  # a view, or memory that nobody has filled
            moved = []
        self.operations.append(
            _Operation(
                module=self._path[-1],
                flops={cause: n for cause, n in flops.items() if n},
                output_shape=list(outputs[0].shape) if outputs else [],
                elements=sum(t.numel() for t in moved),
                bytes=sum(t.numel() * t.element_size() for t in moved),
                touched=(read | written) - self._weights,
            )
        )
        self._alive = [ref for ref in self._alive if not ref.expired()]
        self.eager_peak = max(self.eager_peak, sum(self._storages[ref] for ref in self._alive))
        return result

    def _flops(self, name, args, outputs):
        if name in FREE:
            return {}
        if name not in FORMULAS:
            self.unknown[name] += 1
            return {}
        return FORMULAS[name](args, outputs[0])

    def _ids(self, tensors):
        refs = {StorageWeakRef(tensor.untyped_storage()): tensor for tensor in tensors}
        for ref, tensor in refs.items():
            if ref not in self._storages and ref not in self._weights:
                self._storages[ref] = tensor.untyped_storage().nbytes()
                self._alive.append(ref)
        return set(refs)

    def peak_by_liveness(self):
        """The most bytes alive at once when every storage is freed after the last operator that touches it."""
        first, last = {}, {}
        for index, operation in enumerate(self.operations):
            for ref in operation.touched:
                first.setdefault(ref, index)
                last[ref] = index
        change = [0] * (len(self.operations) + 1)
        for ref in first:
            change[first[ref]] += self._storages[ref]
            change[last[ref] + 1] -= self._storages[ref]
        peak = alive = 0
        for step in change:
            alive += step
            peak = max(peak, alive)
        return peak


def reconcile(analysis, counts, macs):
    """Why a tool's total differs from the exact count, in FLOPs (its MACs × 2); every figure is an integer.

    `counts` are the tool's MACs by (module path, cause) and `macs` is the total that it reports itself. Where a tool counts
    something for a (module, cause), the difference is charged to the cause; where it counts nothing, all of the exact count
    is charged to "not counted". Returns {"counted": {cause: FLOPs}, "difference": {cause or "not counted": FLOPs}, "total":
    2 · macs − exact, "unexplained": what the rows leave of it, "left_out": [{"module", "type", "cause", "flops"}]}.
    "unexplained" is 0 unless a tool's own total is not the sum of its parts.
    """
    exact = {(layer.module, cause): n for layer in analysis.layers for cause, n in layer.flops.items() if n}
    types = {layer.module: layer.type for layer in analysis.layers}
    counted = dict.fromkeys(CAUSES, 0)
    difference = dict.fromkeys((*CAUSES, "not counted"), 0)
    left_out = []
    for key in [*exact, *(key for key in counts if key not in exact)]:
        module, cause = key
        flops = 2 * counts.get(key, 0)
        counted[cause] += flops
        if flops:
            difference[cause] += flops - exact.get(key, 0)
        elif key in exact:
            difference["not counted"] -= exact[key]
            left_out.append({"module": module, "type": types[module], "cause": cause, "flops": exact[key]})
    total = 2 * macs - analysis.flops
    unexplained = total - sum(difference.values())
    return {"counted": counted, "difference": difference, "total": total, "unexplained": unexplained, "left_out": left_out}


def measure_peak_bytes(model, image_size):
    """Peak bytes of activations and workspaces of one inference on the GPU that `model` is on, its weights left out."""
    device = next(model.parameters()).device
    network = copy.deepcopy(model).eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, image_size, image_size, device=device))  # lets the libraries set up what they keep
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        network(torch.zeros(1, 3, image_size, image_size, device=device))
        torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def network_to_count(model, weights, num_classes=None, image_size=None):
    """`(network, name, image_size)` for a registered model or a checkpoint, in eval mode on the CPU.

    10 classes and 224 pixels unless said otherwise or written in the checkpoint's card. Raises UserError where neither or
    contradictory things are named, and for a quantized checkpoint, whose integer layers no counter knows.
    """
    if weights is None:
        network = build_model(model, 10 if num_classes is None else num_classes, image_size or 224)
        return network.eval(), model, image_size or 224
    network, card = load_model(weights, model=model, image_size=image_size)
    if num_classes not in (None, card.num_classes):
        raise UserError(f"--num_classes {num_classes} contradicts {weights}, which has {card.num_classes}; leave the flag out")
    if card.scheme:
        raise UserError(f"{weights} is quantized ({card.scheme}), and no counter knows integer layers; give the float one")
    return network, card.architecture, card.image_size
