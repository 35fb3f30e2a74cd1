import numpy as np

from utils.core.card import ModelCard
from utils.inference.predictors import Predictor, as_logits, softmax


def test_probabilities_are_those_of_each_row_however_great_the_logits():
    logits = np.array([[1000.0, 999.0, -1000.0], [-1e30, -1e30, -1e30]], np.float32)
    e = np.exp(1)
    np.testing.assert_allclose(softmax(logits), [[e / (e + 1), 1 / (e + 1), 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-12)


def test_probabilities_of_a_file_without_a_card_become_logits_and_logits_stay():
    probabilities = np.array([[0.7, 0.3, 0.0], [0.25, 0.25, 0.5]], np.float32)
    np.testing.assert_allclose(softmax(as_logits(probabilities)), probabilities, atol=1e-6)
    logits = np.array([[2.0, -1.0, 0.0]], np.float32)
    assert as_logits(logits) is logits


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
