"""Our own exact count of a network's work and memory.

**What is counted.** One inference forward pass (eval mode, batch 1), operator by operator, as PyTorch dispatches it; the
network runs on the meta device, so shapes are real and nothing is computed. What an operator costs stands in formulas.py.
An operator that is not in that table is never silently taken for zero: it is named in `unknown`.

**Bytes.** Traffic is what the operators read and write unfused, each tensor once an operator (a convolution that fits the
cache); arithmetic intensity is FLOPs over that. Peak activation memory counts every tensor that is not a weight, the
input included: by liveness over the graph (each is freed after its last use: the least for this order of operators), and as
eager PyTorch holds them (a block's input lives on in Python until the block returns).
"""

import copy
from collections import defaultdict
from dataclasses import dataclass, field

import torch

from utils.complexity.formulas import CAUSES, PRODUCTS
from utils.complexity.recorder import Recorder
from utils.core.errors import UserError

# What torch says where a forward pass asks for the values of a tensor that has none.
NO_VALUES = ("Tensor.item() cannot be called on meta tensors", "torch.nonzero() raises unimplemented")


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
    """The exact count of one network at one input shape; the conventions stand at the top of formulas.py."""

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


def analyse(model, image_size, name=None):
    """Count `model` at (1, 3, image_size, image_size); the model itself is left as it is. Returns an Analysis.

    Raises UserError for a network that decides by the values of its image; it is called `name` there, or as its class.
    """
    weights = [*model.parameters(), *model.buffers()]
    network = copy.deepcopy(model).eval().to("meta")
    layers = {path: Layer(path, type(module).__name__, _own_parameters(module)) for path, module in model.named_modules()}
    recorder = Recorder(network)
    _record(network, recorder, image_size, name or type(model).__name__)
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


def _record(network, recorder, image_size, name):
    """One forward pass on shapes alone, followed by `recorder`."""
    try:
        with torch.no_grad(), recorder:
            network(recorder.follow(torch.empty(1, 3, image_size, image_size, device="meta")))
    except (RuntimeError, NotImplementedError) as error:
        if any(sign in str(error) for sign in NO_VALUES):
            raise UserError(f"{name} decides by the values of its image, which a count from shapes cannot follow") from None
        raise


def count_parameters(model):
    """Elements of the parameters, a shared one once: {"trainable", "all"}."""
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "all": sum(p.numel() for p in model.parameters()),
    }


def _own_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


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
