import os

import pytest
import torch

from models.build import build_model
from models.checkpoint import load_model, load_strictly, open_network, read_checkpoint, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.training.ema import ModelEMA

NAMES = ("custom", "resnet18", "mobilenet_v3_small")


class Code:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("classes", [10, 7])
@pytest.mark.parametrize("name", NAMES)
def test_bare_checkpoints_and_raw_state_dicts_load_strictly(name, classes, tmp_path):
    state = build_model(name, classes, 32).state_dict()
    for file, contents in (("bare.pth", {"model": state}), ("raw.pth", state)):
        torch.save(contents, tmp_path / file)
        model, card = load_model(tmp_path / file, name, image_size=32)
        assert card.num_classes == classes and card.architecture == name and not model.training
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    with pytest.raises(UserError, match="has no model card; say which network"):
        load_model(tmp_path / "raw.pth")
    with pytest.raises(UserError, match=f"have {classes} classes, not 2"):
        load_model(tmp_path / "raw.pth", name, classes=["a", "b"])


def test_the_card_speaks_and_contradictions_name_both_values(tmp_path):
    card = ModelCard("custom", ["cat", "dog"], 32)
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"model": build_model("custom", 2, 32).state_dict(), "card": card.to_dict()})
    assert load_model(path)[1] == load_model(path, "fashioncnn")[1] == card
    assert load_model(path, classes=["Katze", "Hund"])[1].classes == ["Katze", "Hund"]
    for wrong, message in (
        ({"model": "resnet18"}, "resnet18 contradicts .* custom"),
        ({"image_size": 64}, "64 contradicts .* 32"),
        ({"classes": ["a"]}, "it has 2 classes, not 1"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(path, **wrong)


def test_a_training_state_gives_the_average(tmp_path):
    one, two = build_model("custom", 2, 32), build_model("custom", 2, 32)
    card = ModelCard("custom", ["a", "b"], 32).to_dict()
    contents = {"model": one.state_dict(), "ema": ModelEMA(two).state_dict(), "choices": {}, "card": card}
    save_checkpoint(tmp_path / "last.pth", contents)
    assert torch.equal(load_model(tmp_path / "last.pth")[0].classifier[3].bias, two.classifier[3].bias)


def test_a_loaded_network_answers_alike_twice(tmp_path):
    save_checkpoint(tmp_path / "bare.pth", {"model": build_model("custom", 4, 32).train().state_dict()})
    network, _ = load_model(tmp_path / "bare.pth", "custom", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), network(images))  # nothing drops out, and no statistics move


def test_a_mismatch_lists_keys_and_shapes():
    state = build_model("custom", 4, 32).state_dict()
    del state["layer1.0.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        load_strictly(build_model("custom", 5, 32), state, "x.pth", "custom")
    message = str(error.value)
    assert "missing layer1.0.bias" in message and "unexpected extra" in message
    assert "classifier.3.weight (4, 256) instead of (5, 256)" in message


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, old_format):
    for name, contents in (("code", {"model": Code()}), ("module", build_model("custom", 2, 32))):
        torch.save(contents, tmp_path / name, _use_new_zipfile_serialization=not old_format)
        with pytest.raises(UserError, match=r"carries pickled code \(\S+\)"):
            read_checkpoint(tmp_path / name)


NO_CHECKPOINTS = {
    b"": "is empty",
    b"hello, this is text": "is not a readable checkpoint",
    b"PK\x03\x04 cut": "is not a readable checkpoint: it is cut off or damaged; copy or make it again",
    bytes(range(256)): "is not a readable checkpoint",
    b"\x08\x0a\x12\x07pytorch": "is not a checkpoint but, as it seems, an ONNX file, which predict.py takes as .onnx",
}


@pytest.mark.parametrize("contents", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, contents):
    path = tmp_path / "a.pth"
    path.write_bytes(contents)
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(error.value) == f"{path} {NO_CHECKPOINTS[contents]}"


def test_a_cut_file_a_folder_and_a_missing_one(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"model": {"w": torch.zeros(999)}})
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    for name, message in (("cut.pth", "not a readable"), (".", "is a folder"), ("gone.pth", "does not exist")):
        with pytest.raises(UserError, match=message):
            read_checkpoint(tmp_path / name)


def test_a_dict_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_failed_save_keeps_the_old_file(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"model": {"w": torch.ones(1)}})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "a.pth", {"model": lambda: None})
    assert read_checkpoint(tmp_path / "a.pth")["model"]["w"] == 1 and os.listdir(tmp_path) == ["a.pth"]


def test_a_network_to_analyse_is_that_of_the_checkpoint_or_always_the_same_fresh_one(tmp_path):
    card = ModelCard("custom", list("abcde"), 32)
    model = build_model("custom", 5, 32)
    save_checkpoint(tmp_path / "a.pth", {"model": model.state_dict(), "card": card.to_dict()})
    network, found = open_network("custom", tmp_path / "a.pth", 5, 32)
    assert found == card and not network.training and torch.equal(network.classifier[3].bias, model.classifier[3].bias)
    (one, fresh), (two, _) = open_network("custom"), open_network("custom")
    assert (fresh.num_classes, fresh.image_size, fresh.training) == (10, 224, {}) and not one.training
    assert torch.equal(one.classifier[3].bias, two.classifier[3].bias)
    assert open_network("custom", num_classes=3, image_size=32)[1].result_name == "custom_32px_3classes"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "resnet18"}, "resnet18 contradicts"),
        ({"num_classes": 9}, "9 classes contradict"),
        ({"image_size": 64}, "64 contradicts"),
        ({"weights": "nowhere.pth"}, "does not exist"),
        ({"weights": None, "model": "resnet_18"}, "Did you mean 'resnet18'"),
    ],
)
def test_what_contradicts_a_checkpoint_is_refused(given, said, tmp_path):
    card = ModelCard("custom", list("abcde"), 32)
    save_checkpoint(tmp_path / "a.pth", {"model": build_model("custom", 5, 32).state_dict(), "card": card.to_dict()})
    with pytest.raises(UserError, match=said):
        open_network(**({"weights": tmp_path / "a.pth"} | given))


def test_a_quantized_checkpoint_is_not_analysed(tmp_path):
    card = ModelCard("custom", list("abcde"), 32, scheme="fp16")
    save_checkpoint(tmp_path / "a.pth", {"model": build_model("custom", 5, 32).half().state_dict(), "card": card.to_dict()})
    with pytest.raises(UserError, match="quantized"):
        open_network(weights=tmp_path / "a.pth")
