"""Paths that lead nowhere, on every flag that names an input: status 2 and one sentence, at once.

Odd values of all flags as such are in tests/scripts/test_flags.py.
"""

import importlib

import pytest
from conftest import ROOT
from digits_checkpoint import trained
from networks import DIGITS

from models.checkpoint import save_checkpoint
from utils.core.cli import Parser
from utils.core.errors import explain
from utils.export.verify import export_model

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
OUTPUTS = {
    "json",
    "csv",
    "save_dir",
    "output",
    "html",
    "fix_list",
    "path_to_save",
    "name",
    "metrics_csv",
}  # may not be there yet
ELSEWHERE = {"data_dir"}  # is filled by a download
WRONG = {  # what stands in the place of a file or a folder of images
    "nothing": "no/such/thing",
    "below a file": "file.txt/thing",
    "an empty file": "file.txt",
    "a folder": "folder",
    "a name of 5,000 characters": "x" * 5000,
    "a link in a circle": "circle",
    "a byte that is no text": "\udcff",
    "a null character": "\0",
}


class Asked(Exception):
    pass


def flags_of(name, monkeypatch):
    """The actions of a script's parser."""
    asked = []

    def stop(parser, *checks, **options):
        asked.append(parser)
        raise Asked

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse", stop)
        with pytest.raises(Asked):
            importlib.import_module(name).main()
    return asked[0]._actions[1:]  # the first is --help


def inputs_of(actions):
    return [a for a in actions if a.type is None and not a.choices and a.nargs != 0 and a.dest not in OUTPUTS | ELSEWHERE]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    network, card = trained()
    save_checkpoint(folder / "model.pth", {"model": network.state_dict(), "card": card.to_dict()})
    export_model(network, card, "onnx", folder / "model.onnx", images=DIGITS[:3], source="3 digits")
    DIGITS[0].save(folder / "image.png")
    return {"weights": folder / "model.pth", "image": folder / "image.png", "dataset": "digits", "model": "custom"} | {
        "predict model": folder / "model.onnx"
    }


@pytest.mark.faults
@pytest.mark.parametrize("name", SCRIPTS)
def test_inputs_that_are_not_there_are_named(name, given, main_of, tmp_path, monkeypatch):
    (tmp_path / "file.txt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    actions = flags_of(name, monkeypatch)
    for action in inputs_of(actions):
        others = [a for a in actions if a is not action and (a.required or a.dest == "weights") and a.option_strings]
        needed = [w for a in others for w in (a.option_strings[-1], given.get(f"{name} {a.dest}", given.get(a.dest, "custom")))]
        for what, value in WRONG.items():
            flag = [action.option_strings[-1], value] if action.option_strings else [value]
            try:
                status = main_of(name, *needed, *flag)[0]
            except Exception as error:
                sentence = explain(error)
                assert sentence, (flag, what, repr(error))
            else:
                pytest.fail(f"{name} {flag} ({what}) ended with status {status}")
            assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file.txt", "folder"], flag
