"""No output of a script replaces one of its inputs: refused in a sentence, and the input is as it was."""

import shutil

import numpy as np
import pytest
from networks import network_of
from PIL import Image

from models.checkpoint import save_checkpoint
from utils.core.errors import UserError
from utils.data.samples import generated_images
from utils.export.verify import export_model

NEEDS = {  # script: flags, where {out} is the output, and the input that it names
    "eval of a checkpoint": ("eval", ["-w", "{pth}", "-d", "digits", "--output", "{pth}"], "pth"),
    "export over its checkpoint by a link": ("export", ["-w", "{pth}", "-e", "onnx", "--output", "{link}"], "pth"),
    "quantize over its weights": ("quantize", ["-w", "{pth}", "-d", "digits", "--output", "{pth}"], "pth"),
    "predict --json over an image": ("predict", ["-i", "{png}", "-m", "{onnx}", "--json", "{png}"], "png"),
    "predict --csv over the model": ("predict", ["-i", "{png}", "-m", "{onnx}", "--csv", "{onnx}"], "onnx"),
    "predict --save_dir on its own folder": ("predict", ["-i", "{png}", "-m", "{onnx}", "--save_dir", "{folder}"], "png"),
    "predict_ckpoint --json over the weights": ("predict_ckpoint", ["-i", "{png}", "-w", "{pth}", "--json", "{pth}"], "pth"),
    "eval over the file with its flags": ("eval", ["@{flags}", "-d", "digits", "--output", "{flags}"], "flags"),
    "predict --csv over the classes": ("predict", ["-i", "{png}", "-m", "{onnx}", "-c", "{txt}", "--csv", "{txt}"], "txt"),
}  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    model, card = network_of("custom", 16)
    card = card.replace(classes=[str(digit) for digit in range(10)])  # those of the data set that is asked about
    save_checkpoint(folder / "model.pth", {"model": model.state_dict(), "card": card.to_dict()})
    export_model(model, card, "onnx", folder / "model.onnx", images=generated_images(8), source="generated images")
    (folder / "classes.txt").write_text("\n".join(card.classes))
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(folder / "image.png")
    return folder


@pytest.mark.parametrize("name", NEEDS)
def test_an_input_is_never_replaced(name, originals, tmp_path, main_of):
    script, flags, victim = NEEDS[name]
    folder = tmp_path / "mine"
    shutil.copytree(originals, folder)
    places = {
        "pth": folder / "model.pth",
        "onnx": folder / "model.onnx",
        "txt": folder / "classes.txt",
        "png": folder / "image.png",
        "flags": folder / "flags.txt",
    }
    places["flags"].write_text(f"-w {places['pth']}\n")
    link = folder / "link.onnx"
    link.symlink_to(places["pth"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="is an input of this run"):
        main_of(script, *(flag.format(**places, folder=folder, link=link) for flag in flags))
    assert victim in places and {path.name: path.read_bytes() for path in folder.iterdir()} == before
