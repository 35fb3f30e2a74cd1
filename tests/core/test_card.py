import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.core.card import READING, ModelCard, read_classes, resize_size
from utils.core.errors import UserError

PRINTABLE = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))
CLASSES = st.lists(st.text(PRINTABLE, min_size=1, max_size=9), min_size=1, max_size=9)


@settings(max_examples=30)
@given(CLASSES, st.integers(8, 1024), st.sampled_from(["BN", "GN"]))
def test_json_there_and_back(classes, image_size, norm_type):
    card = ModelCard("resnet18", classes, image_size, norm_type=norm_type, training={"epoch": 3})
    assert ModelCard.from_json(card.to_json()) == card
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_what_is_not_the_default_is_in_the_json_too():
    numbers = {"resize_size": 40, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "with_preprocessing": True}
    facts = {"parity": {"images": 7}, "scheme": "int8", "quantization": {"weight_bits": 7}, "invented_classes": True}
    card = ModelCard("custom", ["a", "b"], 32, **numbers, **facts)
    assert ModelCard.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (32, 37), (64, 73), (448, 512)])
def test_short_side_is_in_the_proportion_of_256_to_224(size, short_side):
    assert resize_size(size) == ModelCard("custom", ["a"], size).resize_size == short_side


def test_replacing_the_image_size_brings_its_short_side():
    assert ModelCard("custom", ["a"], 224).replace(image_size=32).resize_size == 37


def test_a_card_of_a_later_version_is_read_and_a_broken_one_is_named():
    assert ModelCard.from_dict({"architecture": "custom", "classes": ["a"], "new": 1}).classes == ["a"]
    for broken in ({"classes": ["a"]}, {"architecture": "custom", "classes": 3}):
        with pytest.raises(UserError, match=r"x\.pth"):
            ModelCard.from_dict(broken, "x.pth")


def test_bits_of_the_weights():
    """Files from before the card said so have 8; what is not quantized to integers has none."""
    card = ModelCard("custom", ["a"])
    assert card.weight_bits is None and card.replace(scheme="fp16").weight_bits is None
    assert card.replace(scheme="int8").weight_bits == card.replace(scheme="int8-dynamic").weight_bits == 8
    assert card.replace(scheme="int8", quantization={"weight_bits": 7}).weight_bits == 7
    for broken, words in ((None, "not readable"), ([], "not readable"), ({"weight_bits": "many"}, "weight_bits")):
        with pytest.raises(UserError, match=words):
            ModelCard.from_dict(card.to_dict() | {"quantization": broken}, "x.onnx")


def test_classes_are_read_one_a_line(tmp_path):
    (tmp_path / "classes.txt").write_text("T-shirt/top\n\n Ankle boot \n")
    assert read_classes(tmp_path / "classes.txt") == ["T-shirt/top", "Ankle boot"]
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("empty.txt", "binary.txt", "missing.txt"):
        with pytest.raises(UserError, match=name):
            read_classes(tmp_path / name)


def test_a_card_that_asks_for_another_resizing_is_refused():
    values = ModelCard("custom", ["a"]).to_dict() | {"interpolation": "lanczos"}
    with pytest.raises(UserError, match=r"must be bilinear or bicubic, not 'lanczos'"):
        ModelCard.from_dict(values, "x.onnx")


def test_results_of_unlike_networks_have_unlike_names():
    assert ModelCard("resnet18", list("0123456789"), 224).result_name == "resnet18"
    assert ModelCard("resnet18", list("abc"), 32, norm_type="GN").result_name == "resnet18_32px_3classes_GN"


def test_what_a_card_may_say_of_reading_is_what_readers_know():
    from utils.data.reading import Reading

    assert Reading.__dataclass_fields__.keys() == READING
    with pytest.raises(UserError, match="training must be"):
        ModelCard("custom", ["a"], training={"reading": {"command": "x"}})


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("Coat\nBag\nCoat\n")
    with pytest.raises(UserError, match="holds the name 'Coat' twice") as error:
        read_classes(tmp_path / "classes.txt")
    assert error.value.option == "classes"


def test_a_text_that_begins_with_a_mark_has_the_same_classes(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_classes(tmp_path / "classes.txt") == ["cat", "dog"]
