"""Folding and equalising leave the function as it is, reach what they should, and stop where they must."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.build import build_model
from utils.core.errors import UserError
from utils.export.equalize import equalize, equalized, find_pairs, fold_batchnorm

# architecture: pairs that its structure allows
PAIRS = {
    "custom": 4,  # conv-conv twice, conv-flatten-linear, linear-linear
    "resnet18": 9,  # one inside of each of 8 blocks, and the head
    "mobilenet_v3_small": 16,  # 9 squeeze-and-excitations, 5 in the blocks with ReLU, 1 between blocks, and the head
    "mobilenet_v2": 3,  # ReLU6 bends at 6: two linear bottlenecks that lead straight into the next layer, and the head
}


def randomised(name, norm_type="BN"):
    """A network whose BatchNorms have lived: an untrained one has the same statistics everywhere. In float64."""
    torch.manual_seed(0)
    network = build_model(name, 10, 32, norm_type).double().eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.2, 4)
            nn.init.uniform_(module.weight, 0.2, 3)
            nn.init.normal_(module.bias)
    return network, torch.randn(2, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_function_is_exact(name):
    network, images = randomised(name)
    before = network(images)
    folded = fold_batchnorm(network)
    assert folded > 0 and not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(images), before, rtol=1e-10, atol=1e-10)
    weights = copy.deepcopy(network.state_dict())
    assert equalize(network) == PAIRS[name]
    assert any(not torch.allclose(value, weights[key], rtol=0.1) for key, value in network.state_dict().items())
    torch.testing.assert_close(network(images), before, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_pairs_have_equal_ranges_afterwards():
    network, _ = randomised("custom")
    fold_batchnorm(network)
    equalize(network)
    for first, (second,) in find_pairs(network):
        r1 = first.weight.abs().flatten(1).amax(1)
        r2 = second.weight.abs().view(second.weight.shape[0], len(r1), -1).amax((0, 2))
        torch.testing.assert_close(r1, r2, rtol=0.01, atol=0)


@pytest.mark.parametrize("norm_type", ["GN", "LN", "IN"])
@torch.no_grad()
def test_norms_that_are_not_constants_are_left_alone(norm_type):
    network, images = randomised("custom", norm_type)
    before = network(images)
    assert fold_batchnorm(network) == 0
    assert equalize(network) == 1  # the head; behind every convolution stands a norm that divides by what it sees
    torch.testing.assert_close(network(images), before, rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["plain", "depthwise", "multiplied", "grouped"]), min_size=1, max_size=4),
    st.sampled_from([nn.ReLU, nn.Identity, lambda: nn.LeakyReLU(0.1), lambda: nn.MaxPool2d(2, 1), lambda: nn.AvgPool2d(2, 1)]),
    st.integers(0, 2**31 - 1),
)
@torch.no_grad()
def test_any_chain_of_convolutions(kinds, activation, seed):
    torch.manual_seed(seed)
    groups = {"plain": (1, 8), "depthwise": (8, 8), "multiplied": (8, 16), "grouped": (4, 8)}
    layers = [nn.Conv2d(3, 8, 3, padding=2)]
    for kind in kinds:
        count, wide = groups[kind]
        layers += [activation(), nn.Conv2d(8, wide, 3, padding=1, groups=count)]
        if wide != 8:
            layers += [activation(), nn.Conv2d(wide, 8, 1)]
    network = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).double().eval()
    for parameter in network.parameters():
        parameter *= 10 ** torch.empty(len(parameter)).uniform_(-2, 2).view(-1, *[1] * (parameter.dim() - 1))
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    before = network(images)
    assert equalize(network) == sum(isinstance(layer, nn.Conv2d) for layer in network)
    torch.testing.assert_close(network(images), before, rtol=1e-9, atol=1e-9 * before.abs().max().item())


class Block(nn.Module):
    """conv → `between` → conv, where the first output may also go somewhere else."""

    def __init__(self, between, shortcut=False):
        super().__init__()
        self.first, self.second, self.between, self.shortcut = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), between, shortcut

    def forward(self, x):
        x = self.first(x)
        y = self.second(self.between(x))
        return x + y if self.shortcut else y


@pytest.mark.parametrize(
    ("between", "shortcut", "pairs"),
    [
        (nn.ReLU(), False, 1),
        (nn.ReLU(), True, 0),
        (nn.ReLU6(), False, 0),
        (nn.Hardswish(), False, 0),
        (nn.BatchNorm2d(3), False, 0),
    ],
)
def test_only_what_scales_alone_is_paired(between, shortcut, pairs):
    assert len(find_pairs(Block(between, shortcut).eval())) == pairs


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)))


def test_shared_layer_is_not_paired():
    assert find_pairs(Twice()) == []


@torch.no_grad()
def test_dead_channels_stay_as_they_are():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    network[0].weight[1] = 0
    network[2].weight[:, 2] = 0
    equalize(network)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert (network[0].weight[1] == 0).all() and (network[2].weight[:, 2] == 0).all()


@torch.no_grad()
def test_channels_last_weights():
    network, images = randomised("custom")
    before = network(images)
    network = network.to(memory_format=torch.channels_last)
    fold_batchnorm(network)
    equalize(network)
    torch.testing.assert_close(network(images), before, rtol=1e-10, atol=1e-10)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_followed_is_said():
    with pytest.raises(UserError, match="this network cannot be followed"):
        equalize(Branches())


class Pixels(nn.Module):
    """A linear layer over what another layer does not call channels: `last` reads the last axis of `first`'s output."""

    def __init__(self, first, last, between):
        super().__init__()
        self.first, self.last, self.between = first, last, between

    def forward(self, x):
        return self.last(self.between(self.first(x))).flatten(1)


def tied():
    layers = [nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)]
    layers[4].weight = layers[2].weight
    return nn.Sequential(nn.Flatten(), *layers)


MISLEADING = {
    "two layers with the same weights": tied,
    "tokens": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 16), nn.ReLU(), nn.Flatten(1), nn.Linear(48, 5)),
    "pixels": lambda: Pixels(nn.Conv2d(3, 16, 1), nn.Linear(64, 5), nn.Flatten(2)),
    "the width": lambda: Pixels(nn.Conv2d(3, 8, 1), nn.Linear(8, 5), nn.ReLU()),
}


@pytest.mark.parametrize("network", MISLEADING)
def test_a_network_that_would_answer_otherwise_is_refused(network):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"it would change what this network answers \(by .*\); leave it out") as error:
        equalized(MISLEADING[network](), 8)
    assert error.value.option == "equalize"


def test_a_layer_over_another_axis_of_another_length_is_not_paired():
    network = Pixels(nn.Conv2d(3, 5, 1), nn.Linear(8, 4), nn.ReLU())
    with pytest.raises(UserError, match="no two layers here have only a ReLU between them"):
        equalized(network, 8)


@pytest.mark.parametrize("name", PAIRS)
def test_ordinary_networks_are_equalised(name):
    network = randomised(name)[0].float()
    assert equalized(network, 32) is not network
