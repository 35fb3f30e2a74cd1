import json

import pytest
import torch

from models.build import build_model, freeze_trunk
from models.depth import depths
from utils.core.errors import UserError
from utils.training.optim import build_optimizer, decays, is_matrix, orthogonal, shares_by_depth
from utils.training.registry import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_do_not_decay_and_nothing_is_left_out(name):
    model = build_model("resnet18", 10, 32)
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.05 if key.endswith("weight") and "bn" not in key and "downsample.1" not in key else 0)
    assert len(decay) == len(list(model.parameters()))


class Attentive(torch.nn.Module):
    """The names that timm and torchvision have for what scales or shifts: none of them is a layer's weight."""

    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(8, 8)
        self.cls_token = torch.nn.Parameter(torch.ones(1, 1, 8))
        self.pos_embed = torch.nn.Parameter(torch.ones(1, 9, 8))
        self.layer_scale = torch.nn.Parameter(torch.ones(8, 1, 1))
        self.relative_position_bias_table = torch.nn.Parameter(torch.ones(25, 8))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_scales_or_shifts_under_another_name_does_not_decay(name):
    """Nor does Muon take it for a matrix: all but the weight move as with AdamW."""
    models = [Attentive() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [build_optimizer(kind, model, 0.01, 0.5) for kind, model in zip((name, "adamw"), models, strict=True)]
    decaying = [p for group in optimizers[0].param_groups if group["weight_decay"] for p in group["params"]]
    assert [id(parameter) for parameter in decaying] == [id(models[0].proj.weight)]
    for model, optimizer in zip(models, optimizers, strict=True):
        given_gradients(model, seed=0)
        optimizer.step()
    if name == "muon":
        for key, parameter in models[0].named_parameters():
            assert torch.allclose(parameter, models[1].get_parameter(key)) == (key != "proj.weight"), key


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


def given_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(8, 8), (16, 27), (256, 576), (100, 12)])
def test_an_orthogonal_matrix_keeps_the_singular_vectors(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonal(matrix) @ right.T
    assert values.diagonal().min() > 0.3 and values.diagonal().max() < 1.25
    assert (values - values.diagonal().diag()).abs().max() < 1e-4


def test_muon_moves_weights_as_timm_does_and_the_rest_as_adamw_does():
    """timm computes in bf16, so its steps are compared by their direction and length."""
    from timm.optim import Muon

    models = [build_model("custom", 10, 32) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    start = [parameter.detach().clone() for parameter in models[0].parameters()]
    others = {"nesterov": True, "momentum": 0.9, "ns_coefficients": "original", "weight_decay": 0}
    optimizers = [
        build_optimizer("muon", models[0], 0.01, 0),
        Muon(models[1].parameters(), lr=0.01, **others),
        build_optimizer("adamw", models[2], 0.01, 0),
    ]
    for seed in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            given_gradients(model, seed)
            optimizer.step()
    for ours, timms, adamws, before in zip(*(model.parameters() for model in models), start, strict=True):
        moved, reference = ((after.detach() - before).flatten() for after in (ours, timms))
        if is_matrix(before):
            assert torch.cosine_similarity(moved, reference, dim=0) > 0.999
            assert moved.norm() == pytest.approx(reference.norm().item(), rel=0.01)
        else:
            torch.testing.assert_close(ours, adamws, atol=1e-6, rtol=1e-4)


def test_muon_leaves_depthwise_filters_to_adamw():
    model = build_model("mobilenet_v3_small", 10, 32)
    matrices = {key for key, parameter in model.named_parameters() if is_matrix(parameter)}
    depthwise = {key for key, parameter in model.named_parameters() if parameter.ndim == 4 and parameter.shape[1] == 1}
    assert depthwise and not matrices & depthwise
    assert matrices >= {key for key, parameter in model.named_parameters() if parameter.ndim == 2}


def test_muon_decays_weights_apart_from_the_gradient():
    model = torch.nn.Linear(8, 8, bias=False)
    before = model.weight.detach().clone()
    optimizer = build_optimizer("muon", model, lr=0.1, weight_decay=0.5)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), 0.95 * before)


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
            assert group["weight_decay"] == (0.05 if decays(names[id(parameter)], parameter) else 0)
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
