"""Builds the network that a CPU trains: the layers of a model, some of them replaced by faster ones, over the same tensors."""

import copy
from functools import partial

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.custom import Block
from utils.kernels import winograd
from utils.kernels.blocks import FusedBasicBlock, FusedBlock, FusedBottleneck, FusedNorms, FusedResNet, PoolThenRelu
from utils.kernels.convolution import DepthwiseConv2d, GlobalAveragePool, SmallMapConv2d, WinogradConv2d
from utils.runtime.compile import prepare_compiler, trial_step
from utils.runtime.distributed import first_here_first, say
from utils.runtime.timing import faster

# By the exact type of a layer: what takes its place, the first that `takes` it; and what does with compiled kernels.
CONVOLUTIONS = (DepthwiseConv2d, SmallMapConv2d)
FUSED = {Block: FusedBlock, BasicBlock: FusedBasicBlock, Bottleneck: FusedBottleneck, ResNet: FusedResNet}


def use_training_kernels(model, example_shape=None, compile=False):
    """The network that the training step calls in place of `model`: other modules over the same Parameters and buffers.

    Call it once `model` is on its device and trunks are frozen; on a device other than a CPU it returns `model` itself.
    `model` stays as it is, and follows the training: load, save, copy, export and evaluate it as before. Only the mode of
    the two is their own: `train()` is for the network returned, `eval()` for `model`.

    With `compile`, which needs g++, BatchNorm, ReLU and sums are fused, and 3×3 convolutions are computed by Winograd's
    filtering where that is measured faster, for batches of `example_shape` (B, 3, S, S). Call it under the autocast of
    training then. Where the compiler fails, or nothing is gained, one line says so and nothing is compiled.
    """
    if next(model.parameters()).device.type != "cpu":
        return model
    network = _converted(model)
    if not compile:
        return network
    prepare_compiler()
    try:
        with first_here_first():  # the other processes find what the first has measured and compiled
            candidate = _converted(model, example_shape[0], _winograd_batches(network, example_shape))
            trial_step(candidate.train(), example_shape)
    except Exception as error:  # the compiler raises anything
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        say(f"compiling is not possible here ({why}), so the network runs without")
        return network
    if not is_compiled(candidate):
        say("no part of this model is faster compiled here, so it runs eager")
        return network
    return candidate


def is_compiled(network):
    """Whether a network from `use_training_kernels` has compiled kernels."""
    return any(isinstance(module, (FusedNorms, WinogradConv2d)) for module in network.modules())


def _converted(model, batch_size=0, winograd_batches=None):
    """Copies of the modules of `model` over its own tensors, converted; 0 fuses nothing. `winograd_batches` by layer name."""
    tensors = [*model.parameters(), *model.buffers()]
    network = copy.deepcopy(model, memo={id(tensor): tensor for tensor in tensors})
    return _replaced(network, partial(_faster_layer, batch_size=batch_size, winograd_batches=winograd_batches or {}))


def _replaced(module, make, name=""):
    """`make(name, module)` once that was put in the place of every module inside of it."""
    for child_name, child in module.named_children():
        setattr(module, child_name, _replaced(child, make, f"{name}.{child_name}".lstrip(".")))
    return make(name, module)


def _faster_layer(name, layer, batch_size, winograd_batches):
    if name in winograd_batches:
        return WinogradConv2d.from_layer(layer, winograd_batches[name])
    if batch_size and type(layer) in FUSED and FusedNorms.takes(layer):
        return FUSED[type(layer)](layer, batch_size)
    if type(layer) is Block:
        return PoolThenRelu(layer)
    if type(layer) is nn.AdaptiveAvgPool2d and GlobalAveragePool.takes(layer):
        return GlobalAveragePool(1)
    if type(layer) is nn.Conv2d:
        return next((kind.from_layer(layer) for kind in CONVOLUTIONS if kind.takes(layer)), layer)
    return layer


def _winograd_batches(network, example_shape):
    """By layer name, the batches (shape, dtype) that Winograd's filtering computes faster here in a step of `network`."""
    parameter = next(network.parameters())
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else parameter.dtype
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, SmallMapConv2d)}
    layers = {name: layer for name, layer in layers.items() if WinogradConv2d.takes(layer) and layer.weight.requires_grad}
    if dtype not in winograd.TILES or not layers:
        return {}
    answers, found = {}, {}
    for name, shape in _input_shapes(network, layers, example_shape):
        key = f"3×3 convolution, {dtype}, {shape} to {layers[name].out_channels}"
        if key not in answers:
            answers[key] = _winograd_is_faster(key, layers[name], shape, dtype)
        if answers[key]:
            found.setdefault(name, set()).add((shape, dtype))
    return found


def _input_shapes(network, names, example_shape):
    """(name, shape of the input) of the named layers, in the order of their calls; on the meta device, nothing is computed."""
    twin, shapes = copy.deepcopy(network).to("meta"), []
    for name in names:
        twin.get_submodule(name).register_forward_pre_hook(
            lambda layer, inputs, name=name: shapes.append((name, tuple(inputs[0].shape)))
        )
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        twin(torch.empty(example_shape, device="meta", dtype=next(twin.parameters()).dtype))
    return shapes


def _winograd_is_faster(key, layer, shape, dtype):
    """Of a step forward and backward; the answer is kept under `key` for later runs."""
    x = torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()

    def step(way):
        y = way(x)
        torch.autograd.grad(y, (x, way.weight), y.detach())

    ways = {False: layer, True: WinogradConv2d.from_layer(layer, {(shape, dtype)})}
    return faster(key, {answer: partial(step, way) for answer, way in ways.items()})
