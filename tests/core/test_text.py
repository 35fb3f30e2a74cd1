import csv
import io
import json
import os

import pytest

from utils.core.files import replacing, write_json, write_text
from utils.core.text import Harmless, csv_text, file_part, plural, printable, short_names, si, table, wrapped


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = write_text(tmp_path / "deep" / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_list_of_numbers_stands_on_one_line_and_text_as_it_was(tmp_path):
    value = {
        "rows": [[1, 2.5], [-3e-9, 0]],
        "words": ["[\n1,  2]", "[ 1,  2 ]"],
        "mixed": [1, "a"],
        "none": [],
        "of": [{"a": [1]}],
    }
    text = write_json(tmp_path / "a.json", value).read_text()
    assert json.loads(text) == value
    assert '"rows": [\n    [1, 2.5],\n    [-3e-09, 0]\n  ]' in text


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        assert write_text(tmp_path / "a", "x").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.mark.parametrize(("value", "text"), [(1_819_000_000, "1.819 GMAC"), (137_281_536, "137.3 MMAC"), (12, "12 MAC")])
def test_metric_prefixes(value, text):
    assert si(value, "MAC") == text


def test_table_aligns():
    assert table(["name", "n"], [["a", 10], ["bcdef", 2]]).splitlines() == ["name    n", "─────  ──", "a      10", "bcdef   2"]


def test_a_table_aligns_characters_that_are_two_columns_wide():
    lines = table(["image", "p"], [["猫.jpg", "1"], ["cat é.jpg", "2"]]).splitlines()
    assert lines[2:] == ["猫.jpg     1", "cat é.jpg  2"]


def test_a_table_that_is_too_wide_shortens_its_texts_and_never_a_number():
    rows = [["photos/train/a very long class name/0001.jpg", "flower", "0.98"], ["short.jpg", "a name of some length", "0.5"]]
    wide, narrow = table(["image", "class", "p"], rows, "<<>"), table(["image", "class", "p"], rows, "<<>", 50)
    assert max(map(len, wide.splitlines())) > 50 >= max(map(len, narrow.splitlines()))
    assert "0.98" in narrow and "photos/tra" in narrow and "0001.jpg" in narrow and "…" in narrow
    assert table(["image", "class", "p"], rows, "<<>", 10).count("0.98") == 1
    assert table(["image", "class", "p"], rows, "<<>", 500) == wide


def test_long_lines_are_broken_between_words_only(monkeypatch):
    path = "photos/" + "long-name/" * 12
    assert wrapped(f"left out 2 files: {path} and b.txt", 40).splitlines() == ["left out 2 files:", f"  {path}", "  and b.txt"]
    monkeypatch.setenv("COLUMNS", "30")
    assert max(map(len, wrapped("a word " * 20).splitlines())) <= 30


def test_a_count_agrees_with_its_noun():
    assert [plural(n, "file") for n in (0, 1, 2, 1200)] == ["0 files", "1 file", "2 files", "1,200 files"]
    assert [plural(n, "class", "classes") for n in (1, 3)] == ["1 class", "3 classes"]


def test_short_names_are_told_apart():
    names = ["cat", "a long name 1 with an end", "a long name 2 with an end", "another long name of a class"]
    assert short_names(names, 16) == ["cat", "1 a long… an end", "2 a long… an end", "another …a class"]
    assert all(len(name) <= 16 for name in short_names(names, 16))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("boot.png", "boot.png"),
        ("Stiefel für 中国 👩\u200d🚀", "Stiefel für 中国 👩\u200d🚀"),
        ("a\nerror: b\r", r"a\nerror: b\r"),
        ("\x1b]0;title\x07\x9b2J", r"\x1b]0;title\x07\x9b2J"),
        ("photo\u202egnp.exe\u2066", r"photo\u202egnp.exe\u2066"),
        ("next\u2028line\udcff", r"next\u2028line\udcff"),
    ],
)
def test_text_of_strangers_cannot_steer_the_terminal(text, shown):
    assert printable(text) == shown
    assert table(["name"], [[text]]).splitlines()[2:] == [shown]


def test_nothing_that_is_printed_steers_the_terminal():
    out = io.StringIO()
    print("a\tb\x1b[2J\r\u202egnp", 1, "中国 👩\u200d🚀", file=Harmless(out))
    print("bar\r\x1b[A\x1b[2J", file=Harmless(out, "\r", "\x1b[A"))
    assert out.getvalue() == "a\tb\\x1b[2J\\r\\u202egnp 1 中国 👩\u200d🚀\nbar\r\x1b[A\\x1b[2J\n"
    assert Harmless(out).getvalue() == out.getvalue()


def test_bytes_that_are_no_text_come_back_from_json(tmp_path):
    path = write_json(tmp_path / "a.json", {"image": "\udcff.png"})
    assert json.loads(path.read_text()) == {"image": "\udcff.png"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("resnet18", "resnet18"),
        ("../../x", "x"),
        ("timm/vit_tiny", "timm-vit_tiny"),
        ("a b\n$(c)", "a-b-c"),
        (".hidden", "hidden"),
        ("Füße 鞋", "Füße-鞋"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("x" * 500, "x" * 120),
    ],
)
def test_no_text_forms_a_path(text, part):
    assert file_part(text) == part


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx"])
def test_a_spreadsheet_takes_no_text_for_a_formula(text):
    """Numbers stay numbers; a text that a spreadsheet would compute begins with an apostrophe."""
    ((cell, number),) = list(csv.reader(io.StringIO(csv_text(["name", "count"], [[text, -1]]))))[1:]
    assert cell == f"'{text}" and number == "-1"


def test_a_carriage_return_in_a_cell_stays_in_it():
    text = csv_text(["name", "count"], [["a\rb", 1], ["c\nd", 2]])
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [["a\rb", "1"], ["c\nd", "2"]]
