"""A model is one entry: the scripts take it from the table."""

import json

import pytest
from PIL import Image
from torch import nn

from models.layers import head
from models.registry import MODELS
from utils.core.errors import UserError


@pytest.fixture
def tiny():
    """A model: one convolution over patches, the average over all places, and a head."""

    class Tiny(nn.Module):
        """(B, 3, S, S) -> (B, num_classes) logits."""

        def __init__(self, num_classes):
            super().__init__()
            self.patches = nn.Conv2d(3, 48, kernel_size=4, stride=2)
            self.classifier = head(48 * 3 * 3, 64, num_classes, dropout=0.1)

        def forward(self, x):
            x = nn.functional.adaptive_avg_pool2d(self.patches(x).relu(), 3)
            return self.classifier(x.flatten(1))

    @MODELS.register("tiny")
    def tiny(num_classes, image_size, weights=None):
        return Tiny(num_classes)

    yield
    del MODELS["tiny"]


def test_a_new_model_is_trained_evaluated_exported_analysed_and_asked(tiny, main_of, tmp_path):
    flags = ("-m", "tiny", "-d", "digits", "--image_size", 16, "--batch_size", 32, "--precision", "fp32", "--base_lr", 1e-2)
    status, _ = main_of("train", *flags, "--max_epoch", 4, "--wp_epoch", 1)
    best = tmp_path / "weights" / "digits" / "tiny" / "best_model.pth"
    assert status == 0 and best.exists()

    assert main_of("eval", "-w", best)[0] == 0
    report = json.loads((tmp_path / "results" / "accuracy" / "digits" / "tiny.json").read_text())
    assert report["Acc@1"] > 0.8 and report["samples"] == 359

    assert "argmax flips" in main_of("export", "-w", best, "-e", "onnx")[1]
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    exported = best.parent / "converted_models" / "tiny_onnx.onnx"
    answers = []
    for script, *file in (("predict", "-w", exported), ("predict_ckpoint", "-w", best)):
        answers.append(json.loads(main_of(script, *file, "-i", "image.png", "--json", "-")[1])["images"][0]["class"])
    assert answers[0] == answers[1]

    assert "tiny, input 1×3×16×16" in main_of("complexity", "-w", best)[1]
    assert "classifier.3" in main_of("receptive_field", "-w", best, "--images", 2)[1]


def test_a_model_that_is_gone_is_named(main_of):
    with pytest.raises(UserError, match="tiny is no known model"):
        main_of("train", "-m", "tiny", "-d", "digits")
