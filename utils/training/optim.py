"""The optimizers, and which parameters decay."""

import torch
from torch.optim.adamw import adamw as adamw_step

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


@OPTIMIZERS.register("muon")
class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): a weight moves by the orthogonal matrix nearest to its averaged gradient, one row an output.
    What does not decay, depthwise filters and what has a side below four move as with AdamW.

    The steps are as large as those of AdamW usually are (Liu et al. 2025), so its learning rate and weight decay suit both.
    The matrices are computed in fp32: torch and timm compute theirs in bf16, which is slow on a CPU without it.
    """

    def __init__(self, groups, lr, momentum, fused=True, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "decays": True})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step of all weights that have a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            matrices = [weight for weight in weights if group["decays"] and is_matrix(weight)]
            for weight in matrices:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(self._orthogonal_step(weight, group["momentum"]), alpha=-group["lr"])
            moved = {*map(id, matrices)}
            self._adamw([weight for weight in weights if id(weight) not in moved], group)

    def _orthogonal_step(self, weight, momentum):
        state, gradient = self.state[weight], weight.grad
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(state["exp_avg"], momentum).flatten(1)  # Nesterov's look ahead
        return (orthogonal(matrix) * (0.2 * max(matrix.shape) ** 0.5)).view(weight.shape)

    def _adamw(self, weights, group):
        for weight in weights:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight].update(moments, step=torch.zeros(()))
        gradients = [weight.grad for weight in weights]
        averages, squares, steps = ([self.state[w][name] for w in weights] for name in ("exp_avg", "exp_avg_sq", "step"))
        rates = {"lr": group["lr"], "weight_decay": group["weight_decay"], "beta1": group["momentum"], "beta2": 0.999}
        adamw_step(weights, gradients, averages, squares, [], steps, **rates, eps=1e-8, amsgrad=False, maximize=False)


def is_matrix(weight):
    """Whether Muon moves a weight that decays by an orthogonal matrix."""
    return weight.ndim > 1 and weight.shape[1] > 1 and min(weight.shape[0], weight[0].numel()) >= 4


def orthogonal(matrix, iterations=5):
    """The matrix with the same singular vectors and with singular values near 1, from about 0.7 to 1.2, by the iteration of
    Newton and Schulz with the coefficients of Jordan et al. 2024.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.float() if wide else matrix.float().T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.T


def build_optimizer(name, model, lr, weight_decay, momentum=0.9, shares=None):
    """An optimizer of the trainable parameters of `model`; only weights of layers decay, not what `decays` tells from them.

    `shares` says by the names of the parameters what part of the learning rate each takes, `lr_share` of its group; the first
    groups take most. It uses torch's fused kernels, one pass over the weights of a group. Raises UserError for an unknown name.
    """
    groups = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(((shares or {}).get(key, 1.0), decays(key, parameter)), []).append(parameter)
    return OPTIMIZERS[name](
        [
            {"params": groups[share, heavy], "weight_decay": weight_decay * heavy, "lr_share": share, "decays": heavy}
            for share, heavy in sorted(groups, reverse=True)
        ],
        lr,
        momentum,
        fused=True,
    )


def decays(key, parameter):
    """Whether the parameter of that name takes weight decay: a layer's weight of two axes or more.

    Not a norm or bias, nor what scales or shifts under another name: scales of layers, places and class tokens of transformers,
    tables of attention biases.
    """
    return parameter.ndim > 1 and key.endswith("weight")


def shares_by_depth(depths, decay):
    """The part of the learning rate that each weight takes, {name: part}: 1 at the greatest of `depths`, and before it, at
    every depth, `decay` times what the next one takes (Clark et al. 2020, ELECTRA, fine-tuning).
    """
    last = max(depths.values())
    return {key: decay ** (last - depth) for key, depth in depths.items()}
