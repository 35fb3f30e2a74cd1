import json

import pytest
import torch

from models.build import build_model, freeze_trunk
from models.depth import depths
from utils.core.errors import UserError
from utils.training.optim import build_optimizer, shares_by_depth
from utils.training.registry import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_do_not_decay_and_nothing_is_left_out(name):
    model = build_model("resnet18", 10, 32)
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.05 if key.endswith("weight") and "bn" not in key and "downsample.1" not in key else 0)
    assert len(decay) == len(list(model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_goes_downhill(name):
    model = torch.nn.Linear(3, 1)
    optimizer = build_optimizer(name, model, lr=0.05, weight_decay=0)
    x, losses = torch.eye(3), []
    for _ in range(20):
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_carries_a_step_on(name):
    """After one gradient and then none, a weight moves on, by the more the greater the momentum is."""
    moved = []
    for momentum in (0.5, 0.9):
        model = torch.nn.Linear(1, 1, bias=False)
        optimizer = build_optimizer(name, model, lr=0.01, weight_decay=0, momentum=momentum)
        for gradient in (1.0, 0.0, 0.0):
            before = model.weight.item()
            model.weight.grad = torch.full_like(model.weight, gradient)
            optimizer.step()
        moved.append(before - model.weight.item())
    assert 0 < 1.5 * moved[0] < moved[1]


def test_only_what_is_trainable():
    model = build_model("custom", 10, 32)
    freeze_trunk(model, "custom")
    optimizer = build_optimizer("adamw", model, lr=0.1, weight_decay=0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 10), ("timm/test_vit", 8)])
def test_the_rate_decays_with_the_distance_from_the_head(name, layers):
    model = build_model(name, 10, 32)
    found = depths(model, name)
    optimizer = build_optimizer("adamw", model, 0.1, 0.05, shares=shares_by_depth(found, 0.5))
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = group["lr_share"]
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0)
    assert seen == {key: 0.5 ** (layers - 1 - depth) for key, depth in found.items()}
    assert optimizer.param_groups[0]["lr_share"] == 1 and min(seen.values()) == 0.5 ** (layers - 1)


def test_unknown_name():
    with pytest.raises(UserError, match="adamw"):
        build_optimizer("lion", torch.nn.Linear(1, 1), 0.1, 0)


def test_a_new_optimizer_is_a_choice_of_train(main_of, tmp_path):
    @OPTIMIZERS.register("sign_sgd")
    class SignSGD(torch.optim.Optimizer):
        """Bernstein et al. 2018: every weight moves by the learning rate, against the sign of its gradient."""

        def __init__(self, groups, lr, momentum, fused, **options):
            super().__init__(groups, {"lr": lr, **options})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])

    flags = ("-m", "custom", "-d", "digits", "--image_size", 16, "--precision", "fp32", "--max_epoch", 2)
    try:
        status, _ = main_of("train", *flags, "--optimizer", "sign_sgd", "--base_lr", 1e-3)
    finally:
        del OPTIMIZERS["sign_sgd"]
    facts = json.loads((tmp_path / "weights" / "digits" / "custom" / "history.json").read_text())
    assert status == 0 and facts["final"]["Acc@1"] > 0.5
    with pytest.raises(UserError, match="sign_sgd"):
        main_of("train", *flags, "--optimizer", "sign_sgd")
