"""Names of folders, classes and images that break programs go through every script that meets them."""

import csv
import json
import os

import numpy as np
from PIL import Image

FOLDER = b"pho\nt\xffos\x1b[2J"  # a line break, a byte that is no text, a sequence that clears the terminal
CLASSES = [b"$\\frac{$", b"=cmd()", "中国".encode(), b"x" * 255, b" %s{} "]
IMAGES = [b"$x^{$.png", b"\xff.png", b"z" * 251 + b".png", b"n\nl.png", b"=1.png", "k\x1b[2J\u202e.png".encode()]


def grow(root):
    """The images, and the path of the folder as Python writes it."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        os.makedirs(os.path.join(root, b"train", name))
        for image in IMAGES:
            with open(os.path.join(root, b"train", name, image), "wb") as file:
                Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(file, "PNG")
    return os.fsdecode(root)


def test_odd_names_go_through_all_scripts(main_of, tmp_path):
    folder = grow(os.path.join(os.fsencode(tmp_path), FOLDER))
    count, said = len(CLASSES) * len(IMAGES), []

    def call(name, *flags):
        status, out = main_of(name, *flags)
        said.append(out)
        return status

    flags = ("-m", "custom", "--image_size", 16, "--max_epoch", 1, "--batch_size", 16, "--num_workers", 0, "--tensorboard")
    assert call("train", "-d", folder, *flags, "--precision", "fp32") == 0
    (run,) = (tmp_path / "weights").iterdir()
    assert run.name == r"pho\nt\udcffos\x1b[2J"  # a name that can be printed
    best = run / "custom" / "best_model.pth"
    assert call("eval", "-w", best, "--split", "train", "--output", "accuracy.json") == 0
    wrong = json.loads((tmp_path / "accuracy.json").read_text())["mistakes"]
    assert wrong and all(os.path.isfile(item["image"]) for item in wrong)  # the names came back whole
    assert call("check_dataset", "-d", folder, "--json", "d.json", "--html", "d.html", "--fix_list", "d.csv") in (0, 1)
    answers = ("--json", "p.json", "--csv", "p.csv", "--save_dir", "drawn")
    assert call("predict_ckpoint", "-w", best, "-i", folder, *answers) == 0
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(json.loads((tmp_path / "p.json").read_text())["images"]) == count
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "drawn")) == count
    assert call("export", "-w", best, "-e", "onnx") == 0
    assert call("predict", "-m", run / "custom" / "converted_models" / "custom_onnx.onnx", "-i", folder) == 0
    printed = "".join(said)
    assert not {"\x1b", "\u202e", "\udcff"} & set(printed) and "\nt" not in printed and "\nl.png" not in printed
