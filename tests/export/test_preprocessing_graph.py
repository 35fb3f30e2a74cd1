"""The preprocessing inside of an ONNX graph against the one preprocessing, pixel by pixel."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from utils.core.card import INTERPOLATIONS, ModelCard
from utils.core.images import preprocess
from utils.data.samples import generated_images
from utils.export.preprocessing_graph import prepend_preprocessing

LOOKS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}
CARDS = {
    (size, interpolation): ModelCard("none", ["a", "b"], size, interpolation=interpolation, **LOOKS)
    for size in (32, 57, 224)
    for interpolation in INTERPOLATIONS
}


def session_of(card):
    """A graph that is nothing but the preprocessing, before a network that gives its input back."""
    shape = ["batch", 3, card.image_size, card.image_size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["logits"])], "none", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnxruntime.InferenceSession(prepend_preprocessing(model, card).SerializeToString())


SESSIONS = {kind: session_of(card) for kind, card in CARDS.items()}


def grey_levels_off(pictures, kind):
    """|difference| in grey levels, (N, 3, S, S), of pictures that have one shape."""
    card = CARDS[kind]
    (ours,) = SESSIONS[kind].run(None, {"image": np.stack([np.asarray(picture) for picture in pictures])})
    reference = np.concatenate([preprocess(picture, card) for picture in pictures])
    return np.abs(ours - reference) * np.float32(card.std).reshape(3, 1, 1) * 255


@pytest.mark.parametrize("kind", CARDS, ids="{0[0]}-{0[1]}".format)
@pytest.mark.parametrize("picture", generated_images(12, seed=1), ids=lambda picture: "{}x{}".format(*picture.size))
def test_photos_are_within_rare_single_grey_levels(kind, picture):
    off = grey_levels_off([picture], kind)
    assert off.max() < 1.01 and (off > 0.5).mean() < 0.01


@settings(max_examples=40)
@given(st.integers(1, 250), st.integers(1, 250), st.sampled_from(list(CARDS)))
@example(width=112, height=224, kind=(224, "bilinear"))
@example(width=26, height=52, kind=(57, "bilinear"))  # enlarged 2.5 times, where exact halves are most frequent
def test_noise_of_every_shape_is_within_one_grey_level_a_pass(width, height, kind):
    """Each of the two passes may round exact halves otherwise, so two grey levels are possible, and rare.

    Measured over 11,500 random shapes: more than one level on 0.07 % of the values of an image at the most, and on none of
    99 % of the images; any difference on 15 % at the most. With the passes in the other order: 14 to 26 %. That is bilinear;
    bicubic differs on 0.3 % at the most (2,400 shapes).
    """
    random = np.random.default_rng(width * 1000 + height)
    picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    off = grey_levels_off([picture, picture.transpose(Image.Transpose.ROTATE_180)], kind)
    assert off.max() < 2.01
    assert (off > 1.5).mean() < 0.001
    assert (off > 0.5).mean() < 0.13
