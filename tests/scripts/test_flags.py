"""Odd values of every flag of every script are refused in a sentence or taken; they never end in a traceback."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT

from utils.core.cli import Parser
from utils.core.errors import UserError, explain

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
TEXTS = ["", " ", "-", "--", "---", "=", "a\nb", "\x1b[2J", "\u202egnp", "\udcff", "*", "[", "%s", "{}", "x" * 5000, "no/such"]
NUMBERS = ["0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "0x10", "1_000", "١٢"]


@pytest.fixture
def parse_of(monkeypatch, tmp_path):
    """`(parser, parse)` of a script: parse(flags) does what its main() does with the flags, the cross-flag checks included."""

    class Asked(Exception):
        pass

    def of(name):
        asked = []

        def stop(parser, *checks):
            asked.append((parser, checks))
            raise Asked

        with monkeypatch.context() as patch, pytest.raises(Asked):
            patch.setattr(Parser, "parse", stop)
            importlib.import_module(name).main()
        ((parser, checks),) = asked
        return parser, lambda flags: parser.parse(*checks, argv=flags)

    monkeypatch.chdir(tmp_path)
    return of


def something(action):
    """A value that a flag takes."""
    if "FILE" in str(action.metavar) or "FOLDER" in str(action.metavar):
        return __file__ if "FILE" in action.metavar else str(ROOT)
    return next(map(str, action.choices)) if action.choices else "1" if action.type else "something"


@pytest.mark.parametrize("name", SCRIPTS)
def test_odd_values_are_refused_in_a_sentence_or_taken(name, parse_of, tmp_path):
    parser, parse = parse_of(name)
    for action in parser._actions[1:]:  # the first is --help
        others = [other for other in parser._actions if other.required and other is not action]
        needed = [word for other in others for word in (*other.option_strings[-1:], something(other))]
        for value in TEXTS + NUMBERS:
            flag = action.option_strings[-1:]
            forms = [[*flag, value], [f"{flag[0]}={value}"] if flag else ["--", value]]
            for form in forms[action.nargs == 0 :]:
                try:
                    parse([*needed, *form])
                except Exception as error:
                    if not explain(error):
                        raise AssertionError(f"{name}.py {form[0][:60]} {form[-1][-60:]!r}: {type(error).__name__}") from error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_numbers_that_no_machine_can_serve_and_empty_values_are_refused(name, parse_of):
    parser, parse = parse_of(name)
    for action in parser._actions[1:]:
        others = [other for other in parser._actions if other.required and other is not action]
        needed = [word for other in others for word in (*other.option_strings[-1:], something(other))]
        refused = ["nan", "inf", "-inf", "9" * 400] if action.type in (int, float) else [""] if action.nargs != 0 else []
        for value in refused:
            with pytest.raises(UserError):
                parse([*needed, *([f"{action.option_strings[-1]}={value}"] if action.option_strings else [value])])


def examples(name):
    """The command lines in the docstring of a script."""
    lines = importlib.import_module(name).__doc__.splitlines()
    return [line.strip() for line in lines if re.match(rf"\s*python3? {name}\.py ", line)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_examples_of_a_script_can_be_copied(name, parse_of, monkeypatch):
    """What follows behind a # is for the reader; only what is no longer or not yet there may be refused."""
    _, parse = parse_of(name)
    monkeypatch.chdir(ROOT)
    assert examples(name)
    for line in examples(name):
        try:
            parse(shlex.split(line, comments=True)[2:])
        except UserError as error:
            assert re.fullmatch(r"((\S+ )*\S+ (does not exist|cannot be read).*(; )?)+", str(error)), (line, str(error))


OUTPUTS = {"--output", "--csv", "--json", "--html", "--fix_list", "--save_dir", "--path_to_save"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(name, parse_of, tmp_path):
    parser, parse = parse_of(name)
    needed = [word for a in parser._actions if a.required for word in (*a.option_strings[-1:], something(a))]
    (tmp_path / "a_file").touch()
    for flag in OUTPUTS & set(parser._option_string_actions):
        with pytest.raises(UserError, match=f"{flag} a_file/below.onnx cannot be written: .*a_file is no folder"):
            parse([*needed, flag, "a_file/below.onnx"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_image_sizes_that_no_memory_holds_are_refused(name, parse_of):
    parser, parse = parse_of(name)
    needed = [word for a in parser._actions if a.required for word in (*a.option_strings[-1:], something(a))]
    for flag in {"--image_size", "--resize_size", "--num_workers"} & set(parser._option_string_actions):
        with pytest.raises(UserError, match=flag):
            parse([*needed, flag, "100000"])
