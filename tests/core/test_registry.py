import pytest

from utils.core.errors import UserError
from utils.core.registry import Registry


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
