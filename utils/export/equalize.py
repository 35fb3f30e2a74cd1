"""Cross-layer equalisation: the channels of neighbouring layers are rescaled to like ranges, the function stays the same.

Nagel, van Baalen, Blankevoort, Welling: "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
An integer grid that is shared by channels of very unequal range leaves the small ones without any steps. For a layer
(W1, b1), an activation with f(s·x) = s·f(x) for s > 0, and a layer W2, dividing row i of W1 and of b1 by s_i and multiplying
column i of W2 by it changes nothing but the ranges; s_i = sqrt(r1_i / r2_i), with r the largest magnitude that belongs to
channel i, makes the two alike.
"""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from utils.core.errors import UserError

LAYERS = (nn.Conv2d, nn.Linear)
CHANGE = 1e-3  # of a logit, as a part of their range: rounding takes up to 4e-6, a wrong axis some 1e-2

# What scales with its input, channel by channel (ReLU6 and hard-swish bend at fixed values, so they do not).
SCALING_MODULES = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
)
SCALING_FUNCTIONS = {torch.flatten, torch.relu, F.relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d}
SCALING_METHODS = {"flatten", "relu", "contiguous"}
PRODUCTS = {operator.mul, torch.mul}  # squeeze-and-excitation's, where one factor is scaled and the other is not


def fold_batchnorm(network):
    """Fold every BatchNorm2d that follows a convolution into it, in place, and return how many there were.

    `network` is in eval mode; an Identity takes the place of what is folded. torch.fx's own `fuse` is not taken: it folds a
    convolution that is used twice as well, which changes the network, and leaves SyncBatchNorm as it is.
    """
    graph, uses = _trace(network)
    folded = 0
    for node in graph.nodes:
        module = _module(network, node)
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        before = node.args[0]
        convolution = _module(network, before)
        alone = isinstance(convolution, nn.Conv2d) and len(before.users) == 1 and uses[before.target] == uses[node.target] == 1
        if alone:
            _put(network, before.target, fuse_conv_bn_eval(convolution, module))
            _put(network, node.target, nn.Identity())
            folded += 1
    return folded


def equalize(network, sweeps=50, tolerance=1e-3):
    """Equalise all the pairs that there are, in place, until no scale differs from 1 by over `tolerance`.

    Returns the number of pairs. Chains of layers (pointwise, depthwise, pointwise) are pairs that share a layer, so the
    pairs are swept over again. A pair's second side may be several layers: squeeze-and-excitation reads what it scales.
    """
    network.to(memory_format=torch.contiguous_format)  # the views below need rows that lie together
    pairs = find_pairs(network)
    for _ in range(sweeps):
        largest = max((_equalize_pair(first, seconds) for first, seconds in pairs), default=0.0)
        if largest < tolerance:
            break
    return len(pairs)


@torch.no_grad()
def equalized(network, image_size):
    """A copy of `network` in eval mode with folded BatchNorms and equalised channels; images are `image_size` px.

    Raises UserError where no pair of layers allows it, and where the copy answers otherwise: the graph does not show which
    axis of a tensor are its channels, nor that two layers share their weights.
    """
    network = copy.deepcopy(network).eval()
    images = torch.randn(4, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    before = network(images)
    fold_batchnorm(network)
    if not equalize(network):
        raise UserError("no two layers here have only a ReLU between them; leave it out", option="equalize")
    change, extent = (network(images) - before).abs().max().item(), (before.max() - before.min()).item()
    if not change <= CHANGE * extent:  # also where one is NaN
        much = f"by {change:.2g}, where the logits of random images extend over {extent:.2g}"
        raise UserError(f"it would change what this network answers ({much}); leave it out", option="equalize")
    return network


def find_pairs(network):
    """A list of (layer, [layers that alone read its output through an activation that scales])."""
    graph, uses = _trace(network)
    pairs = []
    for node in graph.nodes:
        if isinstance(_module(network, node), LAYERS) and uses[node.target] == 1:
            readers = _readers(network, node, uses)
            first, seconds = _module(network, node), [_module(network, reader) for reader in readers]
            if readers and all(_reads(second, len(first.weight)) for second in seconds):
                pairs.append((first, seconds))
    return pairs


def _readers(network, start, uses):
    """The layers that `start` reaches, or [] where its output also goes where a scale would not be undone."""
    scaled, products, readers, queue = {start}, [], [], [start]
    while queue:
        node = queue.pop()
        for user in node.users:
            module = _module(network, user)
            if isinstance(module, LAYERS):
                if uses[user.target] > 1:
                    return []
                readers.append(user)
            elif user in scaled:
                continue
            elif user.target in PRODUCTS or _scales(user, module):
                products += [user] if user.target in PRODUCTS else []
                scaled.add(user)
                queue.append(user)
            else:
                return []
    undone = all(sum(argument in scaled for argument in product.args) == 1 for product in products)
    return readers if undone else []


def _scales(node, module):
    if module is not None:
        return isinstance(module, SCALING_MODULES)
    names = SCALING_METHODS if node.op == "call_method" else SCALING_FUNCTIONS
    return node.op in ("call_method", "call_function") and node.target in names


@torch.no_grad()
def _equalize_pair(first, seconds):
    """Rescale one pair; returns how far the furthest scale was from 1."""
    channels = first.weight.shape[0]
    columns = [_by_input(second, channels) for second in seconds]
    r1 = first.weight.abs().flatten(1).amax(1)  # (C,)
    r2 = torch.stack([weight.abs().amax((1, 3)).flatten() for weight in columns]).amax(0)  # (C,)
    alive = (r1 > 0) & (r2 > 0)  # a dead channel has no range to share
    scale = torch.where(alive, torch.sqrt(r1 / r2), torch.ones_like(r1))
    first.weight /= scale.view(-1, *[1] * (first.weight.dim() - 1))
    if first.bias is not None:
        first.bias /= scale
    for weight in columns:
        weight *= scale.view(weight.shape[0], 1, weight.shape[2], 1)
    return (scale - 1).abs().max().item()


def _reads(layer, channels):
    """Whether a layer has a column, or equally many, for each of so many channels; over another axis it may not."""
    groups = getattr(layer, "groups", 1)
    return channels % groups == 0 and layer.weight[0].numel() % (channels // groups) == 0


def _by_input(layer, channels):
    """The weight as a view (G, out/G, C/G, values) by input channel: G groups, values = kernel area or flattened pixels."""
    groups = getattr(layer, "groups", 1)
    return layer.weight.view(groups, layer.weight.shape[0] // groups, channels // groups, -1)


def _trace(network):
    try:
        graph = fx.Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"this network cannot be followed ({reason}); leave it out", option="equalize") from None
    uses = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    return graph, uses


def _module(network, node):
    return network.get_submodule(node.target) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _put(network, name, module):
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
