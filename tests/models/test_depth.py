"""The depth of each weight: the stem first, the head last, blocks between, for networks of every kind."""

import pytest

from models.build import build_outline, head_of
from models.depth import depths

LAYERS = {  # name: (image size, layers, weights that lie at a depth)
    "resnet18": (
        32,
        10,
        {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv2.weight": 1, "layer4.1.bn2.weight": 8, "fc.3.bias": 9},
    ),
    "custom": (32, 4, {"layer1.0.weight": 0, "layer1.1.weight": 0, "classifier.0.weight": 3}),
    "wrn16_4": (32, 8, {"bn.weight": 6, "layer3.1.conv1.weight": 6}),
    "vit_b_16": (32, 14, {"class_token": 0, "encoder.pos_embedding": 0, "encoder.ln.weight": 12, "heads.head.bias": 13}),
    "regnet_y_400mf": (32, 18, {"trunk_output.block1.block1-0.proj.0.weight": 1, "fc.weight": 17}),
    "timm/test_vit": (32, 8, {"pos_embed": 0, "blocks.5.mlp.fc2.bias": 6, "norm.weight": 6, "head.weight": 7}),
    "timm/levit_128s": (64, 11, {"stem.conv4.bn.bias": 0, "head.linear.weight": 10, "head_dist.linear.weight": 10}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_depths_follow_the_structure(name):
    size, layers, places = LAYERS[name]
    network = build_outline(name, 3, size)
    found = depths(network, name)
    assert found.keys() == dict(network.named_parameters()).keys() and {*found.values()} == {*range(layers)}
    assert {key: found[key] for key in places} == places


@pytest.mark.parametrize("name", ["densenet121", "swin_t", "maxvit_t", "squeezenet1_1", "googlenet", "timm/test_resnet"])
def test_the_head_is_deepest_and_alone(name):
    network = build_outline(name, 3, 224)
    found, head = depths(network, name), {id(parameter) for parameter in head_of(network, name).parameters()}
    deepest = {key for key, depth in found.items() if depth == max(found.values())}
    assert deepest == {key for key, parameter in network.named_parameters() if id(parameter) in head}
    assert max(found.values()) >= 5
