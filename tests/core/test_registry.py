import pytest

from utils.core.errors import UserError
from utils.core.registry import Registry, most_alike, names_in


def test_keeps_the_order_and_refuses_a_second_of_the_same_name():
    table = Registry("fruit")
    table.register("pear")("a")
    table.register("apple")("b")
    assert list(table) == ["pear", "apple"] and table["pear"] == "a"
    with pytest.raises(ValueError, match="registered twice"):
        table.register("pear")("c")


def test_an_unknown_name_lists_the_known_and_the_nearest():
    table = Registry("fruit")
    table.register("pear")(1)
    with pytest.raises(UserError, match=r"unknown fruit 'paer'. Did you mean 'pear'\? Known: pear"):
        table["paer"]


def test_names_are_read_from_a_file_that_is_not_imported(tmp_path):
    file = tmp_path / "fruits.py"
    file.write_text(
        'raise SystemExit\n@FRUITS.register("b")\n@FRUITS.register("a")\ndef f(): ...\n@OTHER.register("c")\nclass C: ...\n'
    )
    assert names_in([file], "FRUITS") == ["a", "b"]


def test_of_names_equally_alike_the_first_is_meant():
    assert most_alike("00.jpg", [f"{number:04}.jpg" for number in range(60)]) == ["0000.jpg"]
    assert most_alike("xyz", ["0000.jpg"]) == most_alike("xyz", []) == []
