"""Damaged and crafted model files through the scripts: refused by name, whatever the format, before anything reads them."""

import json
import zipfile

import numpy as np
import pytest
from networks import network_of
from PIL import Image

from models.checkpoint import save_checkpoint
from utils.core.errors import UserError
from utils.core.integrity import verify
from utils.data.samples import generated_images
from utils.export.verify import export_model
from utils.inference.formats import FORMATS, exported

PLACES = 50
KINDS = [*exported(), "checkpoint"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{format: path} of one network in every format, and an image to ask about."""
    folder = tmp_path_factory.mktemp("files")
    model, card = network_of("custom")
    paths = {"image": folder / "image.png"}
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(paths["image"])
    for name in exported():
        paths[name] = folder / f"model{FORMATS[name].suffix}"
        export_model(model, card, name, paths[name], images=generated_images(8), source="generated images")
    paths["checkpoint"] = folder / "model.pth"
    save_checkpoint(paths["checkpoint"], {"model": model.state_dict(), "card": card.to_dict()})
    return paths


def ask(main_of, kind, path, image):
    if kind == "checkpoint":
        return main_of("predict_ckpoint", "-i", image, "-w", path)
    return main_of("predict", "-i", image, "-m", path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_has_a_seal_and_is_answered(kind, files, main_of):
    assert verify(files[kind])
    assert ask(main_of, kind, files[kind], files["image"])[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_is_refused_by_name(kind, files, main_of, tmp_path):
    content = files[kind].read_bytes()
    path = tmp_path / files[kind].name
    for place in np.random.default_rng(0).integers(0, len(content) - 80, PLACES):
        changed = bytearray(content)
        changed[place] ^= 1 << (int(place) % 8)
        path.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=path.name):
            ask(main_of, kind, path, files["image"])


@pytest.mark.parametrize("script", ["predict", "eval"])
def test_a_program_that_would_run_code_does_not(script, files, main_of, tmp_path):
    path, witness = tmp_path / "crafted.pt2", tmp_path / "run"
    with zipfile.ZipFile(files["pt2"]) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("models/model.json"):
                text = content.decode()
                start = text.index('"expr_str": "') + len('"expr_str": "')
                code = json.dumps(f"__import__('pathlib').Path({str(witness)!r}).touch()")[1:-1]
                content = (text[:start] + code + text[text.index('"', start) :]).encode()
            target.writestr(member, content)
    flags = ("-i", files["image"], "-m", path) if script == "predict" else ("-w", path, "-d", "digits")
    with pytest.raises(UserError, match=r"crafted.pt2 is not opened: it holds .*, which could run code"):
        main_of(script, *flags)
    assert not witness.exists()
