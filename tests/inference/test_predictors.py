import numpy as np
import pytest
import torch

from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.inference.predictors import Predictor, are_probabilities, open_predictor, softmax


def test_probabilities_are_those_of_each_row_however_great_the_logits():
    logits = np.array([[1000.0, 999.0, -1000.0], [-1e30, -1e30, -1e30]], np.float32)
    e = np.exp(1)
    np.testing.assert_allclose(softmax(logits), [[e / (e + 1), 1 / (e + 1), 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-12)


def test_probabilities_are_told_from_logits_also_where_they_are_rounded():
    exact = softmax(np.random.default_rng(0).normal(size=(500, 10)))
    assert are_probabilities(exact) and are_probabilities(np.round(exact * 256) / 256)
    for logits in ([[2.0, -1.0, 0.0]], [[0.7, 0.3, 0.2]], [[3.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]):
        assert not are_probabilities(np.array(logits))


class Rounded(Predictor):
    """A file without a card that answers with the colours of the first pixel, as shares in steps of 1/256."""

    card, card_text = ModelCard("none", ["red", "green", "blue"], 2), None

    def _run(self, batch):
        return np.round(batch[:, :, 0, 0] * 256) / 256


def test_what_a_file_without_a_card_answers_to_an_image_does_not_hang_on_the_others():
    rows = np.array([[0.5, 0.25, 0.25], [0.9, 0.06, 0.04], [0.34, 0.33, 0.33]], np.float32)
    images = np.broadcast_to(rows[:, :, None, None], (3, 3, 2, 2)).copy()
    alone = [Rounded("x.onnx")(images[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(Rounded("x.onnx")(images), np.concatenate(alone))
    np.testing.assert_allclose(softmax(np.concatenate(alone)), rows, atol=0.01)


def test_a_program_of_others_for_one_image_answers_any_number_and_refuses_other_sizes_in_a_sentence(tmp_path):
    network = Checked().eval()
    program = torch.export.export(torch.nn.Sequential(network), (torch.zeros(1, 3, 8, 8),))  # its weights are called 0.linear
    torch.export.save(program, tmp_path / "foreign.pt2")
    scripted = torch.jit.script(network)
    scripted.save(tmp_path / "foreign.pt")
    images = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    wanted = network(torch.from_numpy(images)).detach().numpy()
    for name in ("foreign.pt2", "foreign.pt"):
        predictor = open_predictor(tmp_path / name, classes=["a", "b"], image_size=8)
        np.testing.assert_allclose(predictor(images), wanted, atol=1e-5)
        with pytest.raises(UserError, match=rf"{name} does not take \(1, 3, 16, 16\) images"):
            open_predictor(tmp_path / name, classes=["a", "b"], image_size=16)(np.zeros((1, 3, 16, 16), np.float32))


class Checked(torch.nn.Module):
    """Refuses other sizes by an assertion, as torchvision's ViT does."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 8 * 8, 2)

    def forward(self, x):
        assert x.shape[2] == 8, "wrong size"
        return self.linear(x.flatten(1))


class Fixed(Predictor):
    """A file that takes four images at a time and answers with the red and the blue of their first pixel."""

    fixed_batch, card, card_text = 4, ModelCard("none", ["red", "blue"], 2), "{}"

    def _run(self, batch):
        assert len(batch) == 4
        return batch[:, ::2, 0, 0]


def test_a_file_of_a_fixed_batch_answers_any_number_of_images():
    images = np.arange(7 * 12, dtype=np.float32).reshape(7, 3, 2, 2)
    for count in (1, 4, 7):
        np.testing.assert_array_equal(Fixed("x.onnx")(images[:count]), images[:count, ::2, 0, 0])
