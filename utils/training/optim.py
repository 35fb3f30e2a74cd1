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


@OPTIMIZERS.register("muon")
class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): a weight moves by the orthogonal matrix nearest to its averaged gradient, one row an output.
    Norms, biases, depthwise filters and what has a side below four move as with AdamW.

    The steps are as large as those of AdamW usually are (Liu et al. 2025), so its learning rate and weight decay suit both.
    The matrices are computed in fp32: torch and timm compute theirs in bf16, which a CPU without bf16 does thirty times slower.
    """

    def __init__(self, groups, lr, momentum, fused=True, weight_decay=0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step of all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                move = _orthogonal_step if is_matrix(weight) else _adam_step
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(move(weight.grad, self.state[weight], group["momentum"]), alpha=-group["lr"])


def _orthogonal_step(gradient, state, momentum):
    if not state:
        state["average"] = torch.zeros_like(gradient)
    state["average"].lerp_(gradient, 1 - momentum)
    matrix = gradient.lerp(state["average"], momentum).flatten(1)  # Nesterov's look ahead
    return (orthogonal(matrix) * (0.2 * max(matrix.shape) ** 0.5)).view(gradient.shape)


def _adam_step(gradient, state, momentum, beta2=0.999):
    if not state:
        state |= {"average": torch.zeros_like(gradient), "square": torch.zeros_like(gradient), "step": torch.zeros(())}
    state["step"] += 1
    state["average"].lerp_(gradient, 1 - momentum)
    state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    count = state["step"].item()
    root = (state["square"] / (1 - beta2**count)).sqrt_().add_(1e-8)
    return state["average"] / (1 - momentum**count) / root


def is_matrix(weight):
    """Whether Muon moves a weight by an orthogonal matrix."""
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
