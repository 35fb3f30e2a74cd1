"""predict_ckpoint.py: checkpoints with a card, without one, quantized, and files that are no checkpoints."""

import io
import json
import pickle
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from networks import DIGITS, network_of

from models.build import build_model
from models.checkpoint import save_checkpoint
from utils.core.errors import UserError
from utils.export.quantize import QUANTIZERS
from utils.export.verify import reference_logits
from utils.inference.formats import FORMATS
from utils.inference.predictors import open_predictor, softmax


@pytest.fixture
def picture(tmp_path):
    DIGITS[0].save(tmp_path / "zero.png")
    return "zero.png"


def probabilities(out):
    """Of the one picture that was asked for with --json -, in the order of the classes' names."""
    (image,) = json.loads(out)["images"]
    return np.array([entry["probability"] for entry in sorted(image["top"], key=lambda entry: entry["class"])])


def test_a_checkpoint_with_a_card_needs_nothing_else(picture, tmp_path, main_of):
    model, card = network_of("custom")
    save_checkpoint(tmp_path / "best.pth", {"model": model.state_dict(), "card": card.to_dict()})
    status, out = main_of("predict_ckpoint", "-i", picture, "-w", "best.pth", "--topk", 10, "--json", "-")
    expected = softmax(reference_logits(model, card, DIGITS[:1]))[0]
    assert status == 0 and np.allclose(probabilities(out), expected, atol=1e-5)
    assert main_of("predict_ckpoint", "-i", picture, "-w", "best.pth")[1].startswith(
        f"Predicted class: class {expected.argmax()}"
    )


@pytest.mark.parametrize(("num_classes", "raw"), [(10, False), (7, True)])
@pytest.mark.parametrize("name", ["custom", "resnet18", "mobilenet_v3_small"])
def test_bare_checkpoints_predict_and_export(name, num_classes, raw, picture, tmp_path, main_of):
    torch.manual_seed(num_classes)
    size = 32 if name == "custom" else 64
    model = build_model(name, num_classes, size).eval()
    torch.save(model.state_dict() if raw else {"model": model.state_dict()}, tmp_path / "bare.pth")
    (tmp_path / "classes.txt").write_text("\n".join(f"name {i}" for i in range(num_classes)) + "\n")
    known = ("-m", name, "-w", "bare.pth", "-c", "classes.txt", "--image_size", size)
    from_checkpoint = main_of("predict_ckpoint", "-i", picture, *known, "--topk", 10, "--json", "-")[1]
    main_of("export", *known, "-e", "torchscript", "--images", 7)
    file = f"converted_models/{name}_bare_torchscript.pt"
    from_file = main_of("predict", "-i", picture, "-m", file, "--topk", 10, "--json", "-")[1]
    assert json.loads(from_file)["images"][0]["class"].startswith("name ")
    assert len(probabilities(from_file)) == num_classes
    assert np.allclose(probabilities(from_checkpoint), probabilities(from_file), atol=1e-5)


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
def test_quantized_checkpoints_load_and_say_how_they_compute(scheme, picture, tmp_path, main_of):
    model, card = network_of("custom")
    expected = softmax(reference_logits(model, card, DIGITS[:1]))[0]
    QUANTIZERS[scheme].apply(model, card, tmp_path / "small.pth")
    said = io.StringIO()
    with redirect_stderr(said):
        out = main_of("predict_ckpoint", "-i", picture, "-w", "small.pth", "--topk", 10, "--json", "-", "--device", "cpu")[1]
    assert np.allclose(probabilities(out), expected, atol=0.05)
    assert said.getvalue() == open_predictor(tmp_path / "small.pth", device="cpu").arithmetic + "\n"


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused(picture, tmp_path, main_of, capsys):
    torch.save({"model": Code()}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code()))
    for file in ("code.pth", "plain.pth"):
        with pytest.raises(UserError, match=file):
            main_of("predict_ckpoint", "-i", picture, "-m", "custom", "-w", file)
    with pytest.raises(UserError, match="pickled code"):
        main_of("export", "-m", "custom", "-w", "code.pth", "-e", "onnx")
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence", "option"),
    [
        (["-w", "none.pth"], "none.pth does not exist", None),
        (["-w", "bare.pth"], "no model card; say which network it is$", "model"),
        (["-w", "bare.pth", "-m", "resnet18"], "are not those of resnet18", None),
        (["-w", "bare.pth", "-m", "resnet81"], "Did you mean 'resnet18'", None),
        (["-w", "bare.pth", "-m", "custom", "-c", "two.txt"], "have 10 classes, not 2$", "classes"),
        (["-w", "carded.pth", "-m", "resnet18"], "contradicts the card", "model"),
        (["-w", "carded.pth", "-c", "two.txt"], "it has 10 classes, not 2$", "classes"),
        (["-w", "two.txt"], "not a readable checkpoint", None),
    ],
)
def test_mistakes_are_told_in_one_sentence(flags, sentence, option, picture, tmp_path, main_of):
    model, card = network_of("custom")
    save_checkpoint(tmp_path / "bare.pth", {"model": model.state_dict()})
    save_checkpoint(tmp_path / "carded.pth", {"model": model.state_dict(), "card": card.to_dict()})
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=sentence) as caught:
        main_of("predict_ckpoint", "-i", picture, *flags)
    assert "\n" not in str(caught.value) and caught.value.option == option


@pytest.mark.parametrize("engine", ["torchscript", "pt2"])
@pytest.mark.parametrize("script", ["predict_ckpoint", "export"])
def test_exported_files_are_sent_to_the_right_script(script, engine, picture, tmp_path, main_of):
    model, card = network_of("custom", 16)
    path = tmp_path / f"m{FORMATS[engine].suffix}"
    with torch.no_grad():
        writer = FORMATS[engine].load_writer()
        writer.save(writer.convert(model, card), card, path)
    flags = ["-i", picture] if script == "predict_ckpoint" else ["-e", "onnx"]
    with pytest.raises(UserError, match="is an exported file, not a checkpoint"):
        main_of(script, "-w", path.name, *flags)
