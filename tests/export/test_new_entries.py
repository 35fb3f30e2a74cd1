"""A file format and a quantization scheme are one entry each: the scripts take them from the tables."""

import io
import json
import zipfile

import pytest
import torch
from digits_checkpoint import checkpoint
from PIL import Image

import benchmark
from models.build import build_model
from models.checkpoint import save_checkpoint
from utils.core.card import CARD_KEY, ModelCard
from utils.core.errors import UserError
from utils.export.quantize import QUANTIZERS, Scheme, scheme
from utils.export.writers import Writer
from utils.inference.formats import FORMATS, Format
from utils.inference.predictors import Predictor


@pytest.fixture
def toy():
    """A file format: a zip archive of the weights and the card."""

    class ToyWriter(Writer):
        @staticmethod
        def convert(model, card, fp16=False):
            buffer = io.BytesIO()
            torch.save(model.state_dict(), buffer)
            return buffer.getvalue()

        @staticmethod
        def save(weights, card, path):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("toy/weights", weights)
                archive.writestr(f"toy/{CARD_KEY}", card.to_json())

    class ToyReader(Predictor):
        def __init__(self, path, device="auto", threads=None):
            super().__init__(path)
            with zipfile.ZipFile(path) as archive:
                self.card_text = archive.read(f"toy/{CARD_KEY}").decode()
                weights = io.BytesIO(archive.read("toy/weights"))
            card = ModelCard.from_json(self.card_text, path)
            self.network = build_model(card.architecture, card.num_classes, card.image_size).eval()
            self.network.load_state_dict(torch.load(weights, weights_only=True))

        @torch.no_grad()
        def _run(self, batch):
            return self.network(torch.from_numpy(batch)).numpy()

    FORMATS.register("toy")(Format(".toy", "Toy engine", "a toy file", ToyReader, ToyWriter, mark="weights"))
    yield
    del FORMATS["toy"]


@pytest.fixture
def coarse():
    """A quantization scheme: fp32 weights with two bits of mantissa."""

    @scheme
    class Coarse(Scheme):
        name, format = "coarse", "checkpoint"

        def apply(self, network, card, path, images=(), equalize=False):
            rounded = {k: v.to(torch.float8_e5m2).to(v.dtype) for k, v in network.state_dict().items()}
            card = card.replace(scheme=self.name, quantization={"arithmetic": {"cpu": "two bits of mantissa"}})
            save_checkpoint(path, {"model": rounded, "card": card.to_dict()})
            return card

    yield
    QUANTIZERS.pop("coarse", None)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A trained checkpoint and an image beside it; nothing is timed in earnest."""
    monkeypatch.setattr(benchmark, "BATCHES", (1,))
    monkeypatch.setattr(benchmark, "cold_start", lambda variant, image, args: 0.5)
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    return checkpoint(tmp_path / "best_model.pth")


def test_a_new_format_is_exported_answered_evaluated_and_compared(toy, weights, main_of, tmp_path):
    status, out = main_of("export", "-w", weights, "-e", "toy", "--images", 7)
    file = tmp_path / "converted_models" / "custom_toy.toy"
    assert status == 0 and f"{file}: " in out and "argmax flips" in out

    answer = json.loads(main_of("predict", "-i", "image.png", "-w", file, "--json", "-")[1])
    expected = json.loads(main_of("predict_ckpoint", "-i", "image.png", "-w", weights, "--json", "-")[1])
    assert answer["engine"] == "toy" and answer["images"][0]["class"] == expected["images"][0]["class"]

    file.rename(tmp_path / "renamed.zip")  # its content tells
    assert main_of("eval", "-w", "renamed.zip")[0] == 0
    assert json.loads((tmp_path / "results/accuracy/digits/custom_toy_renamed.json").read_text())["Acc@1"] > 0.9
    (tmp_path / "renamed.zip").rename(file)

    out = main_of("benchmark", "-w", weights)[1]
    assert "Toy engine fp32" in out and "not in the table: ONNX Runtime fp32" in out
    with pytest.raises(UserError, match="--fp16 exists for --engine onnx only"):
        main_of("export", "-w", weights, "-e", "toy", "--fp16")
    with pytest.raises(UserError, match="is an exported file, not a checkpoint"):
        main_of("export", "-w", file, "-e", "onnx")


def test_a_new_scheme_is_quantized_evaluated_and_compared(coarse, weights, main_of, tmp_path):
    status, out = main_of("quantize", "-w", weights, "--scheme", "coarse", "--max_drop", 100)
    file = tmp_path / "converted_models" / "custom_coarse.pth"
    assert status == 0 and file.exists() and "PyTorch: two bits of mantissa" in out

    main_of("eval", "-w", file)
    report = json.loads((tmp_path / "results/accuracy/digits/custom_coarse.json").read_text())
    assert report["precision"] == "two bits of mantissa" and report["Acc@1"] > 0.5

    out = main_of("benchmark", "-w", weights)[1]
    assert "PyTorch coarse: two bits of mantissa" in out
    del QUANTIZERS["coarse"]  # who reads the file needs the card only
    assert "Predicted class: " in main_of("predict_ckpoint", "-i", "image.png", "-w", file)[1]
