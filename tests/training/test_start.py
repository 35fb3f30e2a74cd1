"""Starting a run from weights: the trunk strictly, known classes by name, and from the card whatever was not chosen."""

import dataclasses
import json

import pytest
import torch
from digits_checkpoint import trained
from torchvision.models import resnet18

from models.build import build_model
from models.checkpoint import load_model, read_checkpoint, save_checkpoint
from models.containers import to_safetensors
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.integrity import sealed
from utils.training.options import TrainOptions
from utils.training.schedule import OF_TRAINED
from utils.training.start import FINE_TUNING, Start, find_start

DEFAULTED = ("model", "image_size", "norm_type", "base_lr", "wp_epoch")


def options(**chosen):
    """Options of which nobody chose those that are not named."""
    left = {field.name for field in dataclasses.fields(TrainOptions)} - chosen.keys()
    return TrainOptions(**chosen, defaulted=tuple(left))


@pytest.fixture
def weights(tmp_path):
    network, card = trained()
    save_checkpoint(
        tmp_path / "best_model.pth", {"model": network.state_dict(), "card": card.replace(mean=(0.5,) * 3).to_dict()}
    )
    return tmp_path / "best_model.pth"


def started(path, classes, name="custom", size=16):
    torch.manual_seed(1)
    network = build_model(name, len(classes), size)
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    start = find_start(options(weights=str(path), model=name))[1]
    return network.state_dict(), fresh, start.load_into(network, name, classes), start


def test_rows_of_known_classes_are_kept_by_name(weights):
    """8 of 11 classes: wherever they stand now."""
    old = trained()[0].state_dict()
    classes = ["x", "7", "6", "5", "4", "3", "2", "1", "0", "y", "z"]
    state, fresh, said, start = started(weights, classes)
    assert "8 of 11 classes kept" in said and start.images(16)["mean"] == (0.5,) * 3
    for key, value in state.items():
        if key not in ("classifier.3.weight", "classifier.3.bias"):
            assert torch.equal(value, old[key]), key
            continue
        for row, name in enumerate(classes):
            expected = old[key][int(name)] if name.isdecimal() else fresh[key][row]
            assert torch.equal(value[row], expected), (key, name)


def test_a_file_without_names_gives_the_trunk(tmp_path, weights):
    torch.save({"state_dict": {f"model.{key}": value for key, value in trained()[0].state_dict().items()}}, tmp_path / "a.ckpt")
    state, fresh, said, _ = started(tmp_path / "a.ckpt", list("0123456789"))
    assert "0 of 10 classes kept, as the file does not name its classes" in said
    assert torch.equal(state["classifier.0.weight"], trained()[0].state_dict()["classifier.0.weight"])
    assert torch.equal(state["classifier.3.weight"], fresh["classifier.3.weight"])


def test_safetensors_with_a_card(tmp_path, weights):
    network, card = trained()
    (tmp_path / "a.safetensors").write_bytes(sealed(to_safetensors(network.state_dict(), card)))
    assert "10 of 10 classes kept" in started(tmp_path / "a.safetensors", list("0123456789"))[2]


def test_a_head_of_another_kind_is_new(tmp_path):
    """torchvision's resnet18 has one layer there, ours has two; a larger image changes the first layer of FashionCNN's."""
    torch.manual_seed(0)
    theirs = resnet18().state_dict()
    torch.save(theirs, tmp_path / "torchvision.pth")
    state, fresh, said, _ = started(tmp_path / "torchvision.pth", ["a", "b"], "resnet18", 32)
    assert said.startswith("trunk from") and "0 of 2" in said
    assert torch.equal(state["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])
    assert torch.equal(state["fc.0.weight"], fresh["fc.0.weight"])


def test_another_head_of_ours_is_new(weights):
    state, _, said, _ = started(weights, list("0123456789"), size=32)
    assert said.startswith("trunk from") and "0 of 10 classes kept" in said
    assert torch.equal(state["layer3.0.weight"], trained()[0].state_dict()["layer3.0.weight"])


def test_both_heads_of_a_distilled_network_keep_their_rows():
    name, card = "timm/levit_128s", ModelCard("timm/levit_128s", ["a", "b"], 64)
    saved = build_model(name, 2, 64).state_dict()
    network = build_model(name, 3, 64)
    assert "1 of 3 classes kept" in Start("a.pth", saved, card).load_into(network, name, ["x", "b", "y"])
    for head in ("head", "head_dist"):
        assert torch.equal(network.state_dict()[f"{head}.linear.weight"][1], saved[f"{head}.linear.weight"][1])
    bare = {key: value for key, value in saved.items() if not key.startswith(("head.bn", "head_dist.bn"))}
    assert "0 of 3 classes kept" in Start("a.pth", bare, card).load_into(network, name, ["x", "b", "y"])  # other heads: all new


def test_a_lowest_rate_above_that_of_fine_tuning_is_refused(weights):
    with pytest.raises(UserError, match=r"0\.002 is above the learning rate of fine-tuning, 0\.001"):
        find_start(options(weights=str(weights), min_lr=0.002))


def test_the_trunk_is_strict(weights):
    state, card = dict(trained()[0].state_dict()), trained()[1]
    del state["layer1.0.bias"]
    with pytest.raises(UserError, match=r"a.pth are not those of custom: missing layer1.0.bias"):
        Start("a.pth", state, card).load_into(build_model("custom", 2, 16), "custom", ["a", "b"])


def test_images_are_resized_as_for_the_weights(weights):
    state, card = trained()[0].state_dict(), trained()[1]
    start = Start("a.pth", state, card.replace(image_size=16, resize_size=16))
    assert start.images(16)["resize_size"] == 16 and start.images(32)["resize_size"] == 32
    assert Start("a.pth", state, card.replace(image_size=224, resize_size=256)).images(112)["resize_size"] == 128
    assert Start("a.pth", state, None).images(16) == {}


def test_what_was_not_chosen_is_that_of_the_card(weights):
    found, start = find_start(options(weights=str(weights), max_epoch=20))
    assert (found.model, found.image_size, found.norm_type) == ("custom", 16, "BN") and start.card.classes[3] == "3"
    assert found.base_lr == FINE_TUNING["base_lr"] and found.warmup(20) == (OF_TRAINED, None)
    found, _ = find_start(options(weights=str(weights), image_size=32, base_lr=0.01, max_epoch=2))
    assert (found.image_size, found.base_lr, found.warmup(2)[0], found.warmup(5)[0]) == (32, 0.01, 0.4, 1)
    assert find_start(options(pretrained=True, model="resnet18"))[0].base_lr == FINE_TUNING["base_lr"]
    assert find_start(options())[0] == options()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"model": "resnet18"}, "resnet18 contradicts .*best_model.pth, which says custom"),
        ({"norm_type": "GN"}, "GN contradicts .*, which says BN"),
        ({"weights": "nowhere.pth"}, "does not exist"),
    ],
)
def test_what_contradicts_is_a_sentence(chosen, words, weights):
    with pytest.raises(UserError, match=words):
        find_start(options(**({"weights": str(weights)} | chosen)))


def test_a_file_without_a_card_asks_which_network(tmp_path):
    torch.save(trained()[0].state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="say which network it is") as error:
        find_start(options(weights=str(tmp_path / "a.pth")))
    assert error.value.option == "model"


def test_a_run_from_own_weights(main_of, weights, tmp_path):
    """One epoch from there is better than one from random weights, and the card of the run is that of the file."""
    flags = ("-d", "digits", "--max_epoch", 1, "--precision", "fp32", "--augment", "none", "--num_workers", 0)
    _, out = main_of("train", *flags, "-w", weights)
    assert "10 of 10 classes kept" in out
    told = {"model": "custom", "image_size": 16, "base_lr": 0.001, "wp_epoch": 0.2}  # what nobody chose is as it was settled
    written = json.loads((tmp_path / "weights/digits/custom/history.json").read_text())["flags"]
    lines = (tmp_path / "weights/digits/custom/args.txt").read_text().splitlines()
    assert told.items() <= written.items() and {"# --model custom", "# --base_lr 0.001", "# --wp_epoch 0.2"} <= {*lines}
    card = ModelCard.from_dict(read_checkpoint(tmp_path / "weights/digits/custom/best_model.pth")["card"])
    assert (card.architecture, card.image_size, card.mean) == ("custom", 16, (0.5,) * 3)
    assert card.training["final"]["Acc@1"] > 0.95 and load_model(tmp_path / "weights/digits/custom/best_model.pth")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-w", "a.pth", "--pretrained"), "--weights already says what to start from"),
        (("--freeze",), "add --pretrained or --weights"),
        (("--freeze", "-w", "a.pth", "--layer_decay", 0.5), "leave out --layer_decay"),
    ],
)
def test_flags_that_exclude_each_other(flags, words, main_of, tmp_path):
    (tmp_path / "a.pth").touch()
    with pytest.raises(UserError, match=words):
        main_of("train", *flags)
