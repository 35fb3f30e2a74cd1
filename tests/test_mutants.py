"""The list of faults fits the code: each text is there once, each test exists, no room is left out. Nothing is run."""

import ast
import functools

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.words)
def test_the_text_is_there_once_and_the_test_exists(mutant):
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old
    file, _, name = mutant.test.partition("::")
    assert name in names_in(file)


@functools.cache
def names_in(file):
    functions = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {node.name for node in functions if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_has_words_of_its_own():
    assert len({mutant.words for mutant in MUTANTS}) == len(MUTANTS)


def test_every_room_has_a_fault():
    rooms = {f"utils/{package.parent.name}" for package in ROOT.glob("utils/*/__init__.py")} | {"models"}
    assert rooms - {mutant.file.rpartition("/")[0] for mutant in MUTANTS} == set()
