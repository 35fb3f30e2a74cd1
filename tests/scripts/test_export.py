"""export.py: where files go, what is printed, which flags go together, and that nothing is lost when it fails."""

import copy
import shutil

import pytest
import torch
from markdown_blocks import ROOT
from networks import network_of

from models.checkpoint import save_checkpoint
from utils.core.errors import UserError
from utils.export.quantize import QUANTIZERS
from utils.export.writers import TorchScript
from utils.inference.predictors import open_predictor


@pytest.fixture
def weights(tmp_path):
    model, card = network_of("custom")
    save_checkpoint(tmp_path / "run" / "best_model.pth", {"model": model.state_dict(), "card": card.to_dict()})
    return "run/best_model.pth"


def written(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*custom*"))


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["-e", "onnx"], "custom_onnx.onnx"),
        (["-e", "onnx", "--fp16"], "custom_onnx_fp16.onnx"),
        (["-e", "onnx", "--with_preprocessing"], "custom_onnx_preprocessing.onnx"),
        (["-e", "torchscript"], "custom_torchscript.pt"),
        (["-e", "pt2"], "custom_pt2.pt2"),
    ],
)
def test_every_variant_has_a_name_of_its_own(flags, name, weights, tmp_path, main_of):
    status, out = main_of("export", "-w", weights, *flags, "--images", 8)
    assert status == 0 and written(tmp_path) == [f"run/converted_models/{name}"]
    assert f"run/converted_models/{name}: " in out
    assert "of digits (val)" in out and "max |Δlogit|" in out
    assert [line.split()[0] for line in out.splitlines()[3:6]] == ["1", "2", "7"]
    parity = open_predictor(tmp_path / written(tmp_path)[0]).card.parity
    assert parity["images"] == 8 and [row["flips"] for row in parity["rows"]] == [0, 0, 0]


@pytest.mark.parametrize("network", ["custom", "custom_56", "mobilenet_v3_small"])
@pytest.mark.parametrize("flags", [[], ["--with_preprocessing"]])
def test_published_networks_export_without_their_data(network, flags, tmp_path, main_of):
    weights = ROOT / "weights" / "FashionMNIST" / network / "best_model.pth"
    status, out = main_of("export", "-w", weights, "-e", "onnx", "--output", "published.onnx", *flags)
    assert status == 0 and (tmp_path / "published.onnx").exists()
    assert ("differ from Pillow's, by at most 1 of 255 grey levels" in out) == bool(flags)


def test_files_of_two_checkpoints_in_one_folder_do_not_replace_each_other(weights, tmp_path, main_of):
    shutil.copy(tmp_path / weights, tmp_path / "run" / "last.pth")
    for file in (weights, "run/last.pth"):
        main_of("export", "-w", file, "-e", "torchscript", "--images", 7)
    names = ["custom_last_torchscript.pt", "custom_torchscript.pt"]
    assert written(tmp_path) == [f"run/converted_models/{name}" for name in names]
    main_of("quantize", "-w", "run/last.pth")
    main_of("export", "-w", "run/converted_models/custom_last_quantized.pth", "-q", "-e", "torchscript", "--images", 7)
    assert (tmp_path / "run" / "converted_models" / "custom_last_quantized_torchscript.pt").exists()


def test_an_operator_set_that_cannot_resize_is_refused(weights, main_of):
    with pytest.raises(UserError, match="preprocessing needs opset 18 or more"):
        main_of("export", "-w", weights, "-e", "onnx", "--with_preprocessing", "--opset", 17, "--images", 7)


def test_output_names_the_file(weights, tmp_path, main_of):
    main_of("export", "-w", weights, "-e", "torchscript", "--output", "else/where.pt", "--images", 7)
    assert (tmp_path / "else" / "where.pt").exists() and not written(tmp_path)


def test_the_validation_split_that_the_card_names(photos, tmp_path, main_of):
    model, card = network_of("custom", 32, num_classes=3)
    card = card.replace(classes=["blue", "green", "red"], training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "best.pth", {"model": model.state_dict(), "card": card.to_dict()})
    out = main_of("export", "-w", "best.pth", "-e", "torchscript")[1]
    assert "compared with the checkpoint on 9 images of photos (val)" in out
    shutil.rmtree(photos)
    assert "64 images of digits (val)" in main_of("export", "-w", "best.pth", "-e", "torchscript")[1]
    with pytest.raises(UserError, match="does not exist"):
        main_of("export", "-w", "best.pth", "-e", "torchscript", "-d", str(photos))


def test_a_quantized_checkpoint_stays_beside_its_exports(tmp_path, weights, main_of):
    model, card = network_of("custom")
    small = tmp_path / "run" / "converted_models" / "custom_quantized.pth"
    QUANTIZERS["fp16"].apply(model, card, small)
    main_of("export", "-w", small, "-q", "-e", "torchscript", "--images", 7)
    assert (small.parent / "custom_quantized_torchscript.pt").exists()
    with pytest.raises(UserError, match=r"are not quantized; give the file of quantize\.py .*custom_quantized\.pth"):
        main_of("export", "-w", weights, "-q", "-e", "onnx")


def test_quantized_weights_that_are_called_as_a_checkpoint_have_a_name_of_their_own(tmp_path, main_of):
    QUANTIZERS["fp16"].apply(*network_of("custom"), tmp_path / "small" / "best_model.pth")
    main_of("export", "-w", "small/best_model.pth", "-q", "-e", "torchscript", "--images", 7)
    assert (tmp_path / "small" / "converted_models" / "custom_quantized_torchscript.pt").exists()


def test_quantized_weights_without_a_card(tmp_path, main_of):
    model, _ = network_of("custom")
    torch.save({"model": {key: value.half() for key, value in model.state_dict().items()}}, tmp_path / "half.pth")
    flags = ("-m", "custom", "-w", "half.pth", "--image_size", 32)
    main_of("export", *flags, "-q", "-e", "torchscript", "--images", 7)
    card = open_predictor(tmp_path / "converted_models" / "custom_half_torchscript.pt").card
    assert (card.scheme, card.image_size) == ("fp16", 32)


def test_a_file_that_answers_otherwise_is_shown_and_not_written(weights, tmp_path, main_of, monkeypatch, capsys):
    convert = TorchScript.convert

    def spoil(model, *rest):
        with torch.no_grad():
            script = convert(copy.deepcopy(model), *rest)
            model.classifier[3].bias[0] += 1  # the checkpoint, after the file was made of it
        return script

    monkeypatch.setattr(TorchScript, "convert", staticmethod(spoil))
    with pytest.raises(UserError, match="is not written"):
        main_of("export", "-w", weights, "-e", "torchscript", "--images", 7)
    assert "max |Δlogit|" in capsys.readouterr().out and not list((tmp_path / "run" / "converted_models").iterdir())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-e", "tflite"], "invalid choice"),
        (["-e", "pt2", "--fp16"], "--fp16 exists for --engine onnx only"),
        (["-e", "torchscript", "--with_preprocessing"], "--with_preprocessing exists for --engine onnx only"),
        (["-e", "onnx", "--output", "x.pt"], "--output x.pt must end in .onnx"),
        (["-e", "onnx", "--output", "run"], "--output run is a folder"),
        (["-e", "onnx", "--images", "3"], "--images 3 must be 7 or more"),
        (["-e", "onnx", "--image_size", "64"], "contradicts the card"),
        (["-e", "onnx", "-m", "resnet18"], "contradicts the card"),
    ],
)
def test_mistakes_are_told_in_one_sentence(flags, sentence, weights, tmp_path, main_of):
    with pytest.raises(UserError, match=sentence) as caught:
        main_of("export", "-w", weights, *flags)
    assert "\n" not in str(caught.value) and not written(tmp_path)
