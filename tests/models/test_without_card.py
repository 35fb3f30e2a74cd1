"""Weights without a card of ours, as torchvision and timm save them: `-m` is enough, or a sentence says why not."""

import json
import re

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model

from models.build import build_model
from models.checkpoint import load_model
from utils.core.card import ModelCard
from utils.core.errors import UserError

NETWORKS = {  # file: (-m, image size, how the images are prepared, as its library says)
    "squeezenet.pth": ("squeezenet1_1", 224, ("bilinear", 256, 0.485)),
    "vit.safetensors": ("timm/test_vit", 160, ("bicubic", 168, 0.5)),
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with the files of NETWORKS, for three classes, and {file: network}."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    found = {"squeezenet.pth": get_model("squeezenet1_1", weights=None, num_classes=3).eval()}
    found["vit.safetensors"] = timm.create_model("test_vit", num_classes=3).eval()
    torch.save(found["squeezenet.pth"].state_dict(), folder / "squeezenet.pth")
    save_file(found["vit.safetensors"].state_dict(), folder / "vit.safetensors", {"format": "pt"})
    return folder, found


@pytest.mark.parametrize("file", NETWORKS)
def test_the_name_of_the_network_is_enough(file, networks):
    (folder, found), (model, size, prepared) = networks, NETWORKS[file]
    network, card = load_model(folder / file, model)
    assert (card.architecture, card.image_size, card.classes) == (model, size, ["0", "1", "2"])
    assert (card.interpolation, card.resize_size, card.mean[0]) == prepared
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network(images), found[file](images))


def test_weights_that_fit_several_image_sizes_ask_which(tmp_path):
    for size in (28, 224):
        torch.save(build_model("custom", 3, size).state_dict(), tmp_path / f"{size}.pth")
    with pytest.raises(UserError, match=r"28\.pth fit images of 24 to 31 px; say which") as caught:
        load_model(tmp_path / "28.pth", "custom")
    assert caught.value.option == "image_size"
    assert load_model(tmp_path / "28.pth", "custom", image_size=28)[1].image_size == 28
    assert load_model(tmp_path / "224.pth", "custom")[1].image_size == 224
    with pytest.raises(UserError, match="fit images of 24 to 31 px"):
        load_model(tmp_path / "28.pth", "custom", image_size=32)


@pytest.mark.parametrize("file", NETWORKS)
def test_the_scripts_take_it(file, networks, photos, main_of, tmp_path):
    path, model = networks[0] / file, NETWORKS[file][0]
    size = ("--image_size", 64) if model == "squeezenet1_1" else ()  # only to be quick
    flags = ("-m", model, "-w", path, "-c", "classes.txt", *size)
    (tmp_path / "classes.txt").write_text("blue\ngreen\nred\n")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "image.png")
    assert main_of("eval", *flags, "-d", photos, "--output", "result.json")[0] == 0
    assert json.loads((tmp_path / "result.json").read_text())["measured"].endswith("9 images")
    assert main_of("export", *flags, "-e", "torchscript", "--images", 7, "--output", "exported.pt")[0] == 0
    answers = [main_of("predict_ckpoint", *flags, "-i", "image.png", "--csv", "-")[1]]
    answers.append(main_of("predict", "-m", "exported.pt", "-i", "image.png", "--csv", "-")[1])
    labels = [re.findall("blue|green|red", answer) for answer in answers]
    assert labels[0] and labels[0] == labels[1]


def test_weights_tell_the_size_that_they_are_for(tmp_path):
    network = timm.create_model("test_vit", num_classes=3, img_size=64)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    assert load_model(tmp_path / "vit.safetensors", "timm/test_vit")[1].image_size == 64
    with pytest.raises(UserError, match=r"^96 px contradict .*vit\.safetensors, whose weights are for 64 px$") as error:
        load_model(tmp_path / "vit.safetensors", "timm/test_vit", image_size=96)
    assert error.value.option == "image_size"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("alexnet", r"are not those of alexnet: no head \(classifier\.6\.weight\)$"),
        ("squeezenet1_0", r"are not those of squeezenet1_0: .*shape of features\.0\.weight \(64, 3, 3, 3\) instead of"),
        ("torchvision/squeezenet1_1", "is no known model. Did you mean 'squeezenet1_1'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(model, said, networks):
    with pytest.raises(UserError, match=said):
        load_model(networks[0] / "squeezenet.pth", model)


def test_the_librarys_network_of_the_same_name_is_named_and_taken(tmp_path):
    torch.manual_seed(0)
    theirs = get_model("mobilenet_v3_small", weights=None, num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(
        UserError, match=r"not those of mobilenet_v3_small: .*; they are those of torchvision/mobilenet_v3_small$"
    ):
        load_model(tmp_path / "theirs.pth", "mobilenet_v3_small")
    network, card = load_model(tmp_path / "theirs.pth", "torchvision/mobilenet_v3_small")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), theirs(images))
    assert card.num_classes == 3 and card.file_name == "torchvision-mobilenet_v3_small"
    torch.save(build_model("mobilenet_v3_small", 3).state_dict(), tmp_path / "ours.pth")
    with pytest.raises(UserError, match=r"; they are those of mobilenet_v3_small$"):
        load_model(tmp_path / "ours.pth", "torchvision/mobilenet_v3_small")


def test_what_torchvision_leaves_out_or_renames_when_it_loads_is_taken(tmp_path):
    """Auxiliary heads; and files of older versions, without counters of batches and with other names in DenseNet."""
    torch.manual_seed(0)
    for name, change in (
        ("googlenet", lambda key: key),
        ("densenet121", lambda key: re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)),
    ):
        theirs = get_model(name, weights=None, num_classes=3, **({"init_weights": False} if name == "googlenet" else {}))
        state = {change(key): value for key, value in theirs.state_dict().items() if "num_batches_tracked" not in key}
        torch.save(state, tmp_path / "old.pth")
        network = load_model(tmp_path / "old.pth", name)[0]
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(network(images), theirs.eval()(images))


# As timm saves for the hub: model.safetensors with a config.json beside it


@pytest.fixture
def hub(tmp_path):
    """A folder that timm wrote, of a network at 64 px with two named classes."""
    network = timm.create_model("test_vit", num_classes=2, img_size=64)
    labels = {"label_names": ["cat", "dog"]}
    timm.models.save_for_hf(network, tmp_path / "hub", model_config=labels, safe_serialization=True)
    return tmp_path / "hub"


def test_the_config_of_the_hub_is_a_card(hub, main_of, tmp_path):
    for name in (None, "timm/test_vit", "timm/test_vit.r160_in1k"):
        card = load_model(hub / "model.safetensors", name)[1]
        assert (card.architecture, card.classes, card.image_size) == ("timm/test_vit", ["cat", "dog"], 64)
        assert (card.interpolation, card.mean) == ("bicubic", (0.5, 0.5, 0.5)) and not card.invented_classes
    with pytest.raises(UserError, match=r"timm/test_resnet contradicts the card of .*, which says timm/test_vit"):
        load_model(hub / "model.safetensors", "timm/test_resnet")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "image.png")
    assert re.search("cat|dog", main_of("predict_ckpoint", "-i", "image.png", "-w", hub / "model.safetensors")[1])


def test_classes_that_a_hub_config_does_not_name_are_numbers(hub):
    config = json.loads((hub / "config.json").read_text())
    for names in (["cat"], {"0": "cat", "2": "dog"}, None):
        (hub / "config.json").write_text(json.dumps(config | {"label_names": names}))
        card = load_model(hub / "model.safetensors")[1]
        assert card.classes == ["0", "1"] and card.invented_classes


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"architecture": "BertModel"}', '{"architecture": "x", "pretrained_cfg": {}}']
)
def test_a_config_of_somebody_else_is_passed_over(text, hub):
    (hub / "config.json").write_text(text)
    with pytest.raises(UserError, match="has no model card; say which network it is"):
        load_model(hub / "model.safetensors")


def test_the_numbers_of_a_hub_config_are_taken_and_impossible_ones_refused(hub):
    config = json.loads((hub / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.25, 0.25, 0.25], "crop_pct": 0.5}
    (hub / "config.json").write_text(json.dumps(config))
    card = load_model(hub / "model.safetensors")[1]
    assert card.mean == (0.25, 0.25, 0.25) and (card.image_size, card.resize_size) == (64, 128)
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, "x"]
    (hub / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the model card in .* is not readable: mean must be three numbers"):
        load_model(hub / "model.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_that_asks_for_the_version_of_its_weights_gets_it(suffix, tmp_path):
    """MNASNet's does, and a safetensors file has none."""
    network = build_model("mnasnet0_5", 3, 32)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(dict(network.state_dict()), path)
    else:
        save_file(dict(network.state_dict()), path)
    loaded, card = load_model(path, model="mnasnet0_5", image_size=32)
    assert card.num_classes == 3
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("card", [None, ModelCard("custom", ["a", "b", "c"], 16).to_dict()])
def test_integers_are_no_weights(kind, card, tmp_path):
    state = {key: value.to(kind) for key, value in build_model("custom", 3, 16).state_dict().items()}
    torch.save({"model": state} | ({"card": card} if card else {}), tmp_path / "integers.pth")
    with pytest.raises(UserError, match=r"not those of custom: integers instead of floats in \S+weight, .* and \d+ more$"):
        load_model(tmp_path / "integers.pth", "custom", image_size=16)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("counters", [False, True])
def test_floats_of_every_width_are_weights(kind, counters, tmp_path):
    state = build_model("custom", 3, 16).state_dict()
    state = {key: value.to(kind) if counters or value.is_floating_point() else value for key, value in state.items()}
    torch.save(state, tmp_path / "floats.pth")
    network, _ = load_model(tmp_path / "floats.pth", "custom", image_size=16)
    assert torch.equal(network.classifier[3].weight, state["classifier.3.weight"].float())
