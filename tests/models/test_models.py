import socket

import pytest
import torch
from torch import nn

from models.build import build_model, freeze_trunk, head_of
from models.layers import NORMS
from models.registry import families, list_models, unknown_model
from utils.core import cli
from utils.core.card import ModelCard
from utils.core.errors import UserError

SIZES = {"custom": 12_871_690, "resnet18": 11_310_410, "mobilenet_v3_small": 1_077_290}
PUBLISHED = {"wrn16_4": 2_748_890, "wrn28_10": 36_479_194, "wrn40_4": 8_949_210}  # with one Linear layer for 10 classes as head
SMALL = ("custom", "resnet18", "mobilenet_v2", "mobilenet_v3_small")


def test_the_registry_holds_every_family():
    assert {"custom", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2",
            "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_v2_s", "efficientnet_v2_m",
            "efficientnet_v2_l", "resnet18_small", "resnet34_small", *PUBLISHED} <= set(list_models())  # fmt: skip


@pytest.mark.parametrize(("name", "count"), SIZES.items())
def test_parameter_counts_with_ten_classes_at_224(name, count):
    assert sum(p.numel() for p in build_model(name, 10).parameters()) == count


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_wide_residual_networks_have_the_sizes_of_the_paper(name, count):
    with torch.device("meta"):
        model = build_model(name, 10, 32)
        model.fc = nn.Linear(model.fc[0].in_features, 10)
        assert sum(p.numel() for p in model.parameters()) == count
        assert model.layer3(model.layer2(model.layer1(model.conv1(torch.empty(1, 3, 32, 32))))).shape[-1] == 8


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_the_small_stem_keeps_the_trunk_and_the_size_of_small_images(name):
    with torch.device("meta"):
        plain, small = build_model(name, 10, 32), build_model(f"{name}_small", 10, 32)
        assert [k for k, v in plain.state_dict().items() if v.shape != small.state_dict()[k].shape] == ["conv1.weight"]
        images = torch.empty(1, 3, 32, 32)
        assert small.layer1(small.maxpool(small.relu(small.bn1(small.conv1(images))))).shape == (1, 64, 32, 32)
    assert plain.state_dict().keys() == small.state_dict().keys()


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_a_head_for_its_classes_with_the_agreed_keys(name):
    with torch.device("meta"):  # shapes alone: nothing is computed
        model = build_model(name, 7, 32)
        assert model.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    head = "fc" if hasattr(model, "fc") else "classifier"
    keys = [key for key in model.state_dict() if key.startswith(head)]
    assert keys == [f"{head}.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")]
    assert head_of(model, name) is getattr(model, head)


@pytest.mark.parametrize("name", list_models())
def test_the_head_drops_out_as_it_was_designed_to(name):
    with torch.device("meta"):
        (dropout,) = (module for module in head_of(build_model(name, 7, 32), name) if isinstance(module, nn.Dropout))
    assert dropout.p == (0.5 if name == "custom" or name.startswith("mobilenet") else 0.4)


@pytest.mark.parametrize("name", list_models())
def test_hidden_sizes_of_the_heads(name):
    with torch.device("meta"):
        hidden = head_of(build_model(name, 7, 32), name)[0].out_features
    assert hidden == (512 if name.startswith("efficientnet") else 256)


def test_the_keys_of_fashion_cnn():
    keys = {key.rsplit(".", 1)[0] for key in build_model("custom", 10, 32).state_dict()}
    assert keys == {f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)} | {"classifier.0", "classifier.3"}


@pytest.mark.parametrize("size", [8, 28, 32, 50, 224])
def test_fashion_cnn_follows_the_image_size(size):
    assert build_model("custom", 10, size)(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", list_models())
def test_every_norm_type_on_every_model(name, norm):
    with torch.device("meta"):
        model = build_model(name, 3, 64, norm)
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
    wanted = kinds.get(norm, nn.GroupNorm)
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm))]
    assert norms and all(isinstance(m, wanted) for m in norms)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SMALL)
def test_norm_types_train_and_answer_at_batch_one(name, norm):
    model = build_model(name, 3, 32, norm)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_instance_norm_is_that_of_torch():
    x = torch.randn(2, 6, 5, 5)
    assert torch.allclose(NORMS["IN"](6)(x), nn.InstanceNorm2d(6)(x), atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (32, 32), (48, 16), (40, 8), (5, 1)])
def test_group_norm_has_32_groups_or_as_many_as_divide_the_channels(channels, groups):
    x = torch.randn(2, channels, 3, 4)
    assert torch.allclose(NORMS["GN"](channels)(x), nn.GroupNorm(groups, channels)(x), atol=1e-6)


def test_layer_norm_is_over_channels_and_pixels_together():
    x = torch.randn(2, 6, 5, 4)
    assert torch.allclose(NORMS["LN"](6)(x), nn.functional.layer_norm(x, (6, 5, 4)), atol=1e-5)


def test_fashioncnn_is_another_name_of_custom():
    model = build_model("fashioncnn", 3, 16)
    assert type(model) is type(build_model("custom", 3, 16)) and "fashioncnn" not in list_models()
    assert ModelCard("fashioncnn", list("abc"), 16).architecture == "custom"
    parser = cli.Parser("Test.")
    cli.add_model(parser, list_models(), unknown_model)
    assert parser.parse(argv=["-m", "fashioncnn"]).model == "custom"


def test_the_files_that_register_models_are_found_and_no_others():
    assert families() == ["custom", "efficientnet", "mobilenet", "resnet", "wide_resnet"]


def test_a_size_that_is_too_small_is_named_without_a_flag():
    with pytest.raises(UserError, match=r"^7 px is too small for custom; give 8 or more$") as error:
        build_model("custom", 3, image_size=7)
    assert error.value.option == "image_size"


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"Did you mean 'resnet18'\?.*mobilenet_v2"):
        build_model("resnet81", 10)


def test_pretrained_refuses_other_norms_and_models_without_weights():
    with pytest.raises(UserError, match="BatchNorm"):
        build_model("resnet18", 10, norm_type="GN", pretrained=True)
    with pytest.raises(UserError, match="no ImageNet weights"):
        build_model("custom", 10, pretrained=True)


def test_pretrained_weights_are_loaded_from_the_cache_and_their_absence_names_file_and_folder(tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    seconds = []

    def dead(*args, **options):
        seconds.append(socket.getdefaulttimeout())
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", dead)
    with pytest.raises(UserError) as error:
        build_model("resnet18", 10, pretrained=True)
    file = ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    assert file in str(error.value) and str(tmp_path / "checkpoints") in str(error.value)
    assert seconds == [10] and socket.getdefaulttimeout() is None

    trunk = resnet18()
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.__class__, "get_state_dict", lambda self, *a, **k: trunk.state_dict())
    model = build_model("resnet18", 10, pretrained=True)
    assert torch.equal(model.layer4[1].conv2.weight, trunk.layer4[1].conv2.weight)


def test_a_frozen_trunk_leaves_the_head_trainable():
    model = build_model("mobilenet_v3_small", 4, 32)
    freeze_trunk(model, "mobilenet_v3_small")
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"classifier"}
