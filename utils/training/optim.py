"""The optimizers, and which parameters decay."""

import torch

from utils.core.registry import Registry

OPTIMIZERS = Registry("optimizer")


@OPTIMIZERS.register("adamw")
def adamw(groups, lr, momentum, **options):
    """Loshchilov & Hutter 2019: weight decay apart from the gradient."""
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), **options)


@OPTIMIZERS.register("adam")
def adam(groups, lr, momentum, **options):
    """Kingma & Ba 2015: weight decay, if any, is added to the gradient."""
    return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999), **options)


@OPTIMIZERS.register("sgd")
def sgd(groups, lr, momentum, **options):
    """Nesterov's momentum; plain descent when it is 0."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, **options)


def build_optimizer(name, model, lr, weight_decay, momentum=0.9):
    """An optimizer over what is trainable in `model`; norms and biases (every parameter of one axis) do not decay.

    The fused kernels are used: one pass over all the weights. Raises UserError for an unknown name.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name]([group for group in groups if group["params"]], lr, momentum, fused=True)
