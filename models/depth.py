"""How deep in a network each weight lies, from the network's own structure: what learning rates by depth are made of."""

from torch import nn

from models.build import head_of

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # of layers, where a module is exactly one of them


def depths(network, name):
    """{weight: depth} of the trainable and the frozen weights of a network of this name, counted from 0, its input.

    The head alone has the greatest depth. A layer of a network of timm is what timm says that it is (`group_matcher`); of all
    others, a block among the parts of the network, or a single convolution or linear layer with the norm behind it.
    """
    found = _of_timm(network) if hasattr(network, "group_matcher") else _of_parts(network)
    in_head = {id(parameter) for parameter in head_of(network, name).parameters()}
    heads = {key for key, parameter in network.named_parameters() if id(parameter) in in_head}
    rank = {depth: place for place, depth in enumerate(sorted({found[key] for key in found.keys() - heads}))}
    return {key: len(rank) if key in heads else rank[found[key]] for key in found}


def _of_timm(network):
    from timm.models import group_parameters

    return group_parameters(network, network.group_matcher(coarse=False), reverse=True)


def _of_parts(network):
    """Depths by the order of the parts: containers are looked into, and each kind that somewhere holds most of all weights."""
    half, found, layers = _size(network) / 2, {}, [0]
    looked_into = {*CONTAINERS, *(type(module) for module in network.modules() if _size(module) > half)}

    def walk(module, prefix):
        parts = dict(module.named_children()) if type(module) in looked_into else {}
        own = dict(module.named_parameters(prefix, recurse=not parts))
        if not parts and any(parameter.ndim > 1 for parameter in own.values()):  # a norm belongs to the layer before
            layers[0] += 1
        found.update(dict.fromkeys(own, max(layers[0], 1)))
        for part, child in parts.items():
            walk(child, f"{prefix}.{part}" if prefix else part)

    walk(network, "")
    return found


def _size(module):
    return sum(parameter.numel() for parameter in module.parameters())
