"""The optimizers, and which parameters decay."""

import torch

from utils.training.registry import OPTIMIZERS


@OPTIMIZERS.register("adamw")
def adamw(groups, lr, momentum, **options):
    """AdamW (Loshchilov & Hutter 2019): weight decay acts on the weights directly."""
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), **options)


@OPTIMIZERS.register("adam")
def adam(groups, lr, momentum, **options):
    """Adam (Kingma & Ba 2015): weight decay is added to the gradient."""
    return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999), **options)


@OPTIMIZERS.register("sgd")
def sgd(groups, lr, momentum, **options):
    """Gradient descent with Nesterov's momentum, or without any where `momentum` is 0."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, **options)


def build_optimizer(name, model, lr, weight_decay, momentum=0.9):
    """An optimizer of the trainable parameters of `model`; norms and biases (those of one axis) have no weight decay.

    It uses torch's fused kernels, one pass over all weights. Raises UserError for an unknown name.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name]([group for group in groups if group["params"]], lr, momentum, fused=True)
