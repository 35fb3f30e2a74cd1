import copy

import pytest
import torch
from torch import nn

from models import build_model
from models.small_maps import SmallMapConv2d, prefer_matrix_products


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    """The rule takes bf16 alone, whose rounding would hide mistakes."""
    monkeypatch.setattr(SmallMapConv2d, "dtypes", (torch.bfloat16, torch.float64))


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), ((3, 5), (0, 2))])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(stride, kernel, padding, bias):
    torch.manual_seed(0)
    theirs = nn.Conv2d(6, 64, kernel, stride, padding, bias=bias).double()
    ours = nn.Sequential(copy.deepcopy(theirs))
    prefer_matrix_products(ours)
    assert type(ours[0]) is SmallMapConv2d
    results = []
    for convolution in (ours, theirs):
        x = torch.linspace(-1, 1, 2 * 6 * 5 * 4, dtype=torch.float64).sin().view(2, 6, 5, 4).requires_grad_()
        y = convolution(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y))
        results.append([y.detach(), x.grad, *(p.grad for p in convolution.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_large_maps_fp32_frozen_weights_and_evaluation_go_the_plain_way(monkeypatch):
    convolution = nn.Conv2d(4, 8, 3, padding=1)
    prefer_matrix_products(convolution)
    convolution.double()
    monkeypatch.setattr("models.small_maps._Convolution.apply", lambda *args: pytest.fail("taken"))
    convolution(torch.randn(4, 4, 9, 9, dtype=torch.float64))
    convolution.float()(torch.randn(1, 4, 3, 3))
    convolution.double()
    with torch.no_grad():
        convolution(torch.randn(1, 4, 3, 3, dtype=torch.float64))
    convolution.requires_grad_(False)
    convolution(torch.randn(1, 4, 3, 3, dtype=torch.float64))


def test_depthwise_and_dilated_convolutions_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding="same"))
    prefer_matrix_products(layers)
    assert [type(layer) for layer in layers] == 3 * [nn.Conv2d]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_whole_network_has_the_same_gradients_and_names(name):
    torch.manual_seed(0)
    theirs = build_model(name, 5, 32).double().train()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = copy.deepcopy(theirs)
    prefer_matrix_products(ours)
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(images), labels).backward()
    for (name, one), (other, two) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-6, atol=1e-9)


def test_under_autocast_it_computes_in_half_precision():
    convolution = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    prefer_matrix_products(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(torch.randn(2, 64, 2, 2))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert convolution[0].weight.grad.dtype == torch.float32
