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


def build_optimizer(name, model, lr, weight_decay, momentum=0.9, shares=None):
    """An optimizer of the trainable parameters of `model`; norms and biases (those of one axis) have no weight decay.

    `shares` says by the names of the parameters what part of the learning rate each takes, `lr_share` of its group; the first
    groups take most. It uses torch's fused kernels, one pass over the weights of a group. Raises UserError for an unknown name.
    """
    groups = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(((shares or {}).get(key, 1.0), parameter.ndim > 1), []).append(parameter)
    return OPTIMIZERS[name](
        [
            {"params": groups[share, decays], "weight_decay": weight_decay if decays else 0.0, "lr_share": share}
            for share, decays in sorted(groups, reverse=True)
        ],
        lr,
        momentum,
        fused=True,
    )


def shares_by_depth(depths, decay):
    """The part of the learning rate that each weight takes, {name: part}: 1 at the greatest of `depths`, and before it, at
    every depth, `decay` times what the next one takes (Clark et al. 2020, ELECTRA, fine-tuning).
    """
    last = max(depths.values())
    return {key: decay ** (last - depth) for key, depth in depths.items()}
