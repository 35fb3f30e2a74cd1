"""The strip above an image: legible, whole, in any script that a font is installed for."""

import numpy as np
import pytest
from PIL import Image

from utils.core import fonts
from utils.inference.drawing import draw


def strip_of(text, size=(300, 100)):
    """The strip as grey levels (height, width)."""
    drawn = draw(Image.new("RGB", size, "red"), text)
    return np.asarray(drawn.convert("L"))[: drawn.height - size[1]]


@pytest.mark.parametrize("text", ["boot 0.98", "x" * 255 + " 0.98", "W" * 60, "naïve $x$ 1.00", "中" * 99 + " 0.77"])
def test_the_text_ends_before_the_image_does(text):
    strip = strip_of(text)
    assert strip.max() > 150 and strip[:, -3:].max() == 0


def test_what_steers_a_terminal_is_drawn_as_an_escape():
    assert np.array_equal(strip_of("a\nb\x1b[2J"), strip_of(r"a\nb\x1b[2J"))


def test_characters_that_the_own_font_lacks_are_no_boxes():
    if len(fonts.families("中国")[0]) == 1:
        pytest.skip("no font with Chinese is installed")
    assert not np.array_equal(strip_of("中"), strip_of("国"))  # boxes are alike


def test_a_symbol_that_no_font_has_is_drawn_as_its_name(monkeypatch):
    monkeypatch.setattr(fonts, "_characters", lambda family, text: {c for c in text if c.isascii() or c == "ü"})
    assert np.array_equal(strip_of("ü🚀 0.98"), strip_of("ü[rocket] 0.98"))


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (1, 1)])
def test_a_copy_of_an_odd_shape_is_no_larger_than_it_needs_to_be(size):
    assert max(draw(Image.new("RGB", size), "boot 0.98").size) < 2000
